// The answer of an extraction as a form: fields that can be corrected, with those marked that a check doubts.

import { filled } from "./checks.js";
import { button, copyText, element } from "./dom.js";
import { language, text } from "./language.js";

const UNSURE = 0.5; // least probability of a value's tokens

/** Shows the JSON answer of a turn; takes what is there while it streams. */
export class FormView {
  constructor(target, turn) {
    Object.assign(this, { turn, complete: false, edited: {} });
    this.summary = element("p", { className: "notice" });
    this.rows = new Map(turn.template.fields.map((each) => [each.key, this.row(each)]));
    const copied = button(text("copyJson"), async () => {
      copied.textContent = text(await copyText(JSON.stringify(this.values(), null, 2)) ? "copied" : "copyFailed");
    });
    this.form = element("fieldset", { className: "fields" }, element("legend", {}, turn.template.label()),
      ...[...this.rows.values()].map(({ label }) => label), this.summary, copied);
    target.append(this.form);
  }

  row({ key, names }) {
    const doubt = element("small", { className: "doubt", id: `doubt-${key}-${Math.random().toString(36).slice(2)}` });
    const input = element("input", {
      type: "text", "aria-describedby": doubt.id, dataset: { field: key },
      input: () => { this.edited[key] = true; this.check(); },
    });
    return { label: element("label", {}, element("span", {}, names[language]), input, doubt), input, doubt };
  }

  show(json, complete) {
    const found = fieldsOf(json);
    for (const [key, { input, label }] of this.rows) {
      if (!this.edited[key]) input.value = found[key]?.value ?? "";
      label.hidden = complete && !found[key] && !this.turn.template.fields.find((each) => each.key === key).required;
    }
    this.found = found;
    this.complete = complete;
    this.broken = complete && Boolean(json) && !isJson(json);
    this.check();
  }

  values() {
    return Object.fromEntries([...this.rows].filter(([, { label }]) => !label.hidden).map(([key, { input }]) => [key, input.value]));
  }

  check() {
    if (!this.complete) return;
    const { template, answer } = this.turn;
    const values = this.values();
    const doubts = {};
    for (const { key, check } of template.fields) {
      if (values[key] === undefined) continue;
      doubts[key] = filled(values[key]) || check?.(values[key]) || (this.edited[key] ? "" : unsure(this.found[key], answer.logprobs));
    }
    for (const { fields, doubt } of template.checks) {
      const said = doubt(values);
      for (const key of said ? fields : []) doubts[key] ||= said;
    }
    for (const [key, { input, doubt }] of this.rows) {
      doubt.textContent = doubts[key] ? text("doubt", doubts[key]) : "";
      input.toggleAttribute("data-doubt", Boolean(doubts[key]));
      input.setAttribute("aria-invalid", String(Boolean(doubts[key])));
    }
    const count = Object.values(doubts).filter(Boolean).length;
    this.summary.textContent = this.broken ? text("jsonError") : count ? text("doubts", count) : text("noDoubt");
  }
}

function isJson(source) {
  try {
    JSON.parse(source);
    return true;
  } catch {
    return false;
  }
}

/** The text fields of a JSON object, also of an incomplete one: key -> {value, from, to}; places are in `source`. */
function fieldsOf(source) {
  const found = {};
  for (const match of source.matchAll(/"(\w+)"\s*:\s*"((?:[^"\\]|\\.)*)/g)) {
    const from = match.index + match[0].length - match[2].length;
    try {
      found[match[1]] = { value: JSON.parse(`"${match[2]}"`), from, to: from + match[2].length };
    } catch { /* half an escape at the end of the stream */ }
  }
  return found;
}

/** What to say where the least likely token of the value had a low probability. */
function unsure(field, logprobs) {
  if (!field || !logprobs.length) return "";
  let [place, least] = [0, 0];
  for (const [token, logprob] of logprobs) {
    const end = place + token.length;
    if (end > field.from && place < field.to) least = Math.min(least, logprob);
    place = end;
  }
  const probability = Math.exp(least);
  return probability < UNSURE ? text("unsure", Math.round(probability * 100)) : "";
}
