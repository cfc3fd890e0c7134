// One question and its answer on the page: texts, pictures with regions, errors, timings and actions.

import { storedKey } from "./api.js";
import { AttachmentList, objectUrl, thumbnail } from "./attachments.js";
import { picturesSeen } from "./conversation.js";
import { button, element } from "./dom.js";
import { FormView } from "./form_view.js";
import { text } from "./language.js";
import { MarkdownView } from "./markdown.js";
import { regionButtons, regionsOn } from "./regions.js";
import { retryButton } from "./retry.js";

const REDRAW_MS = 50;
const IDLE_SHARE = 4; // of the time of a redraw, before the next one

/** `actions` has functions of a turn: edit, regenerate, proceed, login, rate, program, enlarge, copy. */
export class TurnView {
  constructor(turn, turns, actions) {
    Object.assign(this, { turn, turns, actions, drawnAt: 0, drawMs: 0, timer: 0 });
    this.question = element("div", { className: "question" });
    this.reasoning = element("p", { className: "reasoning" });
    this.thoughts = element("details", { hidden: true }, element("summary", {}, text("reasoning")), this.reasoning);
    this.content = element("div", { className: "content" });
    this.after = element("div", { className: "after" });
    this.answer = element("div", { className: "answer" }, this.thoughts, this.content, this.after);
    this.view = turn.template ? new FormView(this.content, turn) : new MarkdownView(this.content);
    this.element = element(
      "article", {},
      element("h2", { className: "visually-hidden" }, text("you")), this.question,
      element("h3", { className: "visually-hidden" }, text("answer")), this.answer,
    );
    this.showQuestion();
    this.draw();
  }

  /** Redraws soon: at most every 50 ms and a fifth of the time, so that a fast stream does not keep the page busy. */
  update() {
    if (this.timer) return;
    const wait = Math.max(0, this.drawnAt + Math.max(REDRAW_MS, IDLE_SHARE * this.drawMs) - performance.now());
    this.timer = setTimeout(() => requestAnimationFrame(() => this.draw()), wait);
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = 0;
    const begun = performance.now();
    const { answer } = this.turn;
    const { state } = answer;
    const busy = state === "waiting" || state === "streaming";
    this.answer.setAttribute("aria-busy", String(busy));
    this.thoughts.hidden = !answer.reasoning;
    if (answer.reasoning) this.reasoning.textContent = answer.reasoning;
    this.view.show(answer.text, !busy);
    this.drawnAt = performance.now();
    this.drawMs = this.drawnAt - begun;
    this.answer.classList.toggle("streaming", state === "streaming");
    if (state === this.drawnState && busy) return;
    this.drawnState = state;
    if (state === "waiting") this.after.replaceChildren(element("p", { className: "notice waiting" }, text("waiting")));
    else if (state === "streaming") this.after.replaceChildren();
    else this.showEnd();
  }

  showQuestion() {
    const { turn } = this;
    const shown = turn.question || turn.template?.label() || "";
    this.pictures = turn.attachments.map((each) => this.picture(each));
    this.question.replaceChildren(
      ...(this.pictures.length ? [element("div", { className: "pictures" }, ...this.pictures)] : []),
      element("p", {}, shown),
      button(text("edit"), () => this.showEditor(), { className: "quiet" }),
    );
  }

  picture(attached) {
    if (!attached.width) return element("figure", {}, thumbnail(attached), element("figcaption", {}, attached.name));
    const image = element("img", { src: objectUrl(attached.blob), alt: attached.name });
    const frame = element("div", { className: "frame" }, image);
    const open = button("⤢", () => this.actions.enlarge(frame), {
      className: "enlarge", "aria-label": text("open", attached.name), title: text("open", attached.name),
    });
    return element("figure", {}, frame, open, element("figcaption", {}, attached.name));
  }

  showEditor() {
    const field = element("textarea", { rows: 3, value: this.turn.question, "aria-label": text("question") });
    const error = element("p", { className: "error", role: "alert", hidden: true });
    const list = element("ul", { className: "attachments", "aria-label": text("attached") });
    const kept = new AttachmentList(list, error, () => ({}));
    kept.restore(this.turn.attachments.map((each) => ({ ...each }))); // the turn stays as it is if the edit is cancelled
    this.question.replaceChildren(list, field, error, element(
      "div", { className: "row" },
      button(text("save"), () => kept.say(this.actions.edit(this.turn, field.value.trim(), kept.items) ?? ""), { className: "primary" }),
      button(text("cancel"), () => this.showQuestion()),
    ));
    field.focus();
  }

  showEnd() {
    const { turn } = this;
    const { answer } = turn;
    const isLast = turn === this.turns.at(-1);
    const canContinue = isLast && answer.text && !turn.template && (answer.state !== "done" || answer.finish === "length");
    const notes = [];
    if (answer.state === "stopped") notes.push(element("p", { className: "notice" }, text("stopped")));
    else if (answer.finish === "length") notes.push(element("p", { className: "notice" }, text("cut")));
    const seen = picturesSeen(answer);
    this.after.replaceChildren(
      ...(answer.error ? [this.errorNote(answer.error)] : []),
      ...notes,
      ...this.regions(answer, seen),
      ...this.scaledNotes(answer, seen),
      element("div", { className: "actions" },
        canContinue ? button(text("continue"), () => this.actions.proceed(turn)) : null,
        isLast && answer.state !== "failed" ? button(text("regenerate"), () => this.actions.regenerate(turn)) : null,
        answer.text ? button(text("copyAnswer"), ({ currentTarget }) => this.actions.copy(currentTarget, answer.text)) : null,
        button(text("copyCode"), () => this.actions.program(turn)),
        ...this.ratings(answer),
      ),
      element("p", { className: "figures" }, figures(answer)),
    );
  }

  errorNote({ message, code, status, retryAfter }) {
    const retry = retryButton({ retryAfter }, () => this.actions.regenerate(this.turn, { afterError: true }));
    const words = [message, " ", element("small", {}, [status || "", code].filter(Boolean).join(" "))];
    const other = status === 403 && storedKey() ? button(text("otherKey"), () => this.actions.login(this.turn)) : null;
    return element("div", { className: "error", role: "alert" }, element("p", {}, ...words), retry, " ", other);
  }

  regions(answer, seen) {
    const attached = new Map(this.turns.flatMap((turn) => turn.attachments).map((each) => [each, null]));
    for (const article of this.actions.views()) {
      article.turn.attachments.forEach((each, index) => attached.set(each, article.pictures[index].querySelector(".frame")));
    }
    const frames = seen.map(({ attachment }) => attached.get(attachment) ?? null);
    const regions = regionsOn(answer.boxes, frames);
    return regions.length ? [regionButtons(regions)] : [];
  }

  scaledNotes(answer, seen) {
    return answer.images.flatMap((image, index) => {
      const { attachment, page } = seen[index] ?? {};
      const name = page ? text("page", page) : attachment?.name ?? text("pictureNumber", index + 1);
      const original = attachment?.original ?? image.original_size; // before the browser made it smaller
      if (!image.scaled && !attachment?.original) return [];
      return [element("p", { className: "figures" }, text("scaled", name, ...image.seen_size, ...original))];
    });
  }

  ratings(answer) {
    if (answer.state !== "done" || !answer.id) return [];
    return ["up", "down"].map((rating) => button(text(rating), () => this.actions.rate(this.turn, rating), {
      "aria-pressed": String(answer.rating === rating),
    }));
  }
}

function figures({ state, usage, totalMs, firstMs, cached }) {
  const seconds = (ms) => (ms / 1000).toFixed(ms < 9950 ? 1 : 0);
  const parts = [];
  if (totalMs && (state !== "failed" || firstMs)) parts.push(text("seconds", seconds(totalMs)));
  if (firstMs) parts.push(text("firstWord", seconds(firstMs)));
  if (usage) parts.push(text("tokens", usage.prompt_tokens, usage.prompt_tokens_details.image_tokens, usage.completion_tokens));
  if (cached) parts.push(text("cached"));
  return parts.join(" · ");
}
