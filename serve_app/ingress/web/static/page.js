// The page at /: connects the composer, the turns, the history and the dialogs.

import { RequestError, send, storeKey, storedKey } from "./api.js";
import { AttachmentList, revokeObjectUrls } from "./attachments.js";
import { openCamera } from "./camera.js";
import { ask, excess, newConversation, newTurn } from "./conversation.js";
import { button, copyText, element, isComposing } from "./dom.js";
import * as history from "./history.js";
import { language, setLanguage, text, translate } from "./language.js";
import { KINDS, requestOf } from "./programs.js";
import { showSamples } from "./samples.js";
import { TEMPLATE_NAMES, Template } from "./templates.js";
import { TurnView } from "./turn_view.js";

const at = (id) => document.getElementById(id);
const limits = JSON.parse(document.body.dataset.limits);
const attachments = new AttachmentList(at("attachments"), at("attachment-error"), () => limits);
let conversation = newConversation();
let views = [];
let running = null; // the AbortController of the answer that streams
let model = null; // from /v1/models
let afterLogin = null;
let saved = Promise.resolve(); // the last write to the history
const deleted = new WeakSet(); // conversations that are not written to the history any more

// -- asking -----------------------------------------------------------------------------------------

function options() {
  const maxTokens = Number(at("max-tokens").value);
  return {
    model: model?.id,
    temperature: Number(at("temperature").value),
    system: at("system").value.trim(),
    ...(maxTokens ? { max_tokens: maxTokens } : {}),
    ...(at("thinking-option").hidden ? {} : { thinking: at("thinking").checked }),
  };
}

async function submit() {
  if (!await attachments.allRead()) return; // the question stays, with the reason
  const question = at("question").value.trim();
  const template = at("template").value ? new Template(at("template").value, Boolean(model?.description)) : null;
  if (running || !(question || (template && attachments.items.length))) return at("question").focus();
  const refused = excess(conversation.turns, attachments.items, limits);
  if (refused) return attachments.say(refused);
  attachments.say("");
  at("question").value = "";
  at("template").value = ""; // the next question is answered freely
  await askNew(newTurn(question, attachments.take(), template));
}

async function askNew(turn) {
  conversation.turns.push(turn);
  addView(turn);
  at("welcome").hidden = true;
  views.at(-2)?.draw(); // what only the last turn offers
  views.at(-1).element.scrollIntoView({ block: "end" });
  keep(conversation);
  await answer(turn);
}

async function answer(turn, more = {}) {
  const asked = conversation; // another one may be shown before the answer ends
  const controller = running = new AbortController();
  showRunning(true);
  const view = views.find((each) => each.turn === turn);
  let state = "";
  await ask(asked.turns, asked.turns.indexOf(turn), {
    options: { ...options(), ...(more.fresh ? { temperature: Math.max(Number(at("temperature").value), 0.7) } : {}) },
    signal: controller.signal,
    changed: () => {
      if (asked !== conversation) return;
      const follow = isAtEnd();
      if (turn.answer.state !== state) {
        state = turn.answer.state;
        at("status").textContent = { waiting: text("answering"), done: `${text("done")} ${turn.answer.text.slice(0, 300)}`, stopped: text("stopped") }[state] ?? "";
      }
      view.update();
      if (follow) requestAnimationFrame(() => scrollTo({ top: document.body.scrollHeight }));
    },
    ...more,
  });
  if (running === controller) {
    running = null;
    showRunning(false);
    view.draw();
    if (turn.answer.error?.status === 401) login(() => answer(turn, more), turn.answer.error.message);
  }
  await keep(asked);
}

function keep(shown) {
  saved = saved.then(() => (deleted.has(shown) ? null : history.save(shown)));
  return saved;
}

const isAtEnd = () => innerHeight + scrollY > document.body.scrollHeight - 120;

function showRunning(isRunning) {
  at("stop").hidden = !isRunning;
  at("send").hidden = isRunning;
  if (!isRunning && document.activeElement === document.body) at("question").focus({ preventScroll: true });
}

const actions = {
  views: () => views,
  /** Returns why the question is not asked, if the service would refuse its attachments. */
  edit(turn, question, attached) {
    if (running || !(question || (turn.template && attached.length))) return "";
    const place = conversation.turns.indexOf(turn);
    const refused = excess(conversation.turns.slice(0, place), attached, limits);
    if (refused) return refused;
    conversation.turns.splice(place);
    for (const view of views.splice(place)) view.element.remove();
    askNew(newTurn(question, attached, turn.template));
    return "";
  },
  regenerate(turn, { afterError = false } = {}) {
    if (running) return;
    const view = views.find((each) => each.turn === turn);
    Object.assign(turn.answer, { text: "", reasoning: "" });
    view.draw();
    answer(turn, { fresh: !afterError });
  },
  proceed(turn) {
    if (!running) answer(turn, { continues: true });
  },
  /** Asks again with another key. */
  login(turn) {
    login(() => actions.regenerate(turn, { afterError: true }));
  },
  async rate(turn, rating) {
    const rated = conversation;
    try {
      await send("v1/feedback", { body: { id: turn.answer.id, rating }, unreachable: text("unreachable") });
      turn.answer.rating = rating;
      at("status").textContent = text("rated");
      keep(rated);
    } catch (error) {
      attachments.say(error.message);
    }
    views.find((each) => each.turn === turn)?.draw();
  },
  async copy(from, content) {
    const copied = await copyText(content);
    const label = from.textContent;
    from.textContent = text(copied ? "copied" : "copyFailed");
    setTimeout(() => { from.textContent = label; }, 1500);
  },
  async program(turn) {
    const request = await requestOf(conversation.turns, conversation.turns.indexOf(turn), options(), model?.id);
    const show = (kind) => {
      at("code").textContent = KINDS[kind](request);
      for (const each of at("code-kinds").children) each.setAttribute("aria-pressed", String(each.textContent === kind));
    };
    at("code-kinds").replaceChildren(...Object.keys(KINDS).map((kind) => button(kind, () => show(kind))));
    show("curl");
    at("code-dialog").showModal();
  },
  enlarge(frame) {
    at("picture-large").replaceChildren(frame.cloneNode(true));
    at("picture-dialog").showModal();
  },
};

function addView(turn) {
  const view = new TurnView(turn, conversation.turns, actions);
  views.push(view);
  at("turns").append(view.element);
}

function show(shown) {
  if (running) {
    running.abort(); // the answer so far is saved in its conversation
    running = null;
    showRunning(false);
  }
  conversation = shown;
  revokeObjectUrls();
  attachments.show();
  views = [];
  at("turns").replaceChildren();
  conversation.turns.forEach(addView);
  for (const view of views) view.draw(); // regions need the pictures of all turns
  at("welcome").hidden = conversation.turns.length > 0;
  at("question").focus();
}

// -- the model and the key --------------------------------------------------------------------------

async function findModel() {
  try {
    [model] = (await (await send("v1/models", { unreachable: text("unreachable") })).json()).data;
    at("model").textContent = model.description ? text("demoModel", model.id) : model.id;
    at("thinking-option").hidden = !model.abilities.includes("thinking");
    if (model.description) showSamples(at("samples"), (files, question) => {
      at("question").value = question;
      attachments.restore([]);
      attachments.add(files).then(() => at("send").focus());
    });
  } catch (error) {
    if (error instanceof RequestError && error.status === 401) login(findModel, storedKey() ? error.message : "");
    else if (error.status === 403) at("model").textContent = "";
    else {
      const retry = button(text("retry"), () => { at("model").replaceChildren(); findModel(); });
      at("model").replaceChildren(error.status === 503 ? text("loading") : error.message, " ", retry);
    }
  }
}

function login(then, message = "") {
  afterLogin = then;
  at("login-error").textContent = message;
  at("key").value = "";
  if (!at("login").open) at("login").showModal();
}

at("login-form").addEventListener("submit", () => {
  storeKey(at("key").value.trim());
  if (!model) findModel();
  if (afterLogin !== findModel) afterLogin?.();
  afterLogin = null;
});

// -- the composer -----------------------------------------------------------------------------------

at("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
at("stop").addEventListener("click", () => running?.abort());
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !isComposing(event)) { event.preventDefault(); submit(); }
});
at("attach").addEventListener("click", () => at("files").click());
for (const id of ["files", "camera-files"]) {
  const take = () => { attachments.add([...at(id).files]); at(id).value = ""; };
  at(id).addEventListener("change", take);
  if (at(id).files.length) take(); // chosen before this module had run
}
at("camera").addEventListener("click", () => openCamera({
  dialog: at("camera-dialog"), video: at("video"), error: at("camera-error"), capture: at("capture"), close: at("camera-close"),
}, (file) => attachments.add([file]), () => at("camera-files").click()));
addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) attachments.add([...clipboardData.files]);
});
addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  at("drop").hidden = false;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").hidden = true; });
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  attachments.add([...event.dataTransfer.files]);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !isComposing(event) && !document.querySelector("dialog[open]")) running?.abort();
});

// -- history, language, theme -----------------------------------------------------------------------

async function showHistory() {
  await saved;
  const found = await history.list();
  at("conversations").replaceChildren(...found.map((each) => {
    const title = each.turns[0]?.question || each.turns[0]?.template?.label() || text("untitled");
    return element("li", {},
      button(title.slice(0, 80), () => {
        at("history-dialog").close();
        if (each.id !== conversation.id) show(each);
      }, { className: "title" }),
      element("small", {}, new Date(each.updated).toLocaleString(language === "zh" ? "zh-CN" : "en")),
      button(text("exportAll"), () => history.download([each], "conversation.json"), { "aria-label": text("export", title) }),
      button("×", async () => { await forget(each.id); showHistory(); }, { "aria-label": text("delete", title) }));
  }));
  if (!found.length) at("conversations").append(element("li", {}, text("noHistory")));
  at("history-clear").hidden = !found.length;
}

/** Deletes a conversation, or all of them; one that is shown is left, so that it is not written again. */
async function forget(id) {
  if (id === undefined || id === conversation.id) {
    deleted.add(conversation);
    show(newConversation());
  }
  await saved;
  await (id === undefined ? history.clear() : history.remove(id));
}

at("new").addEventListener("click", () => show(newConversation()));
at("history").addEventListener("click", async () => { await showHistory(); at("history-dialog").showModal(); });
at("history-clear").addEventListener("click", async () => { await forget(); showHistory(); });
for (const name of ["history", "code", "picture"]) at(`${name}-close`).addEventListener("click", () => at(`${name}-dialog`).close());
at("code-copy").addEventListener("click", ({ currentTarget }) => actions.copy(currentTarget, at("code").textContent));

function showLanguage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  translate(document);
  at("language").textContent = text("switchTo");
  at("language").lang = text("other");
  const chosen = at("template").value;
  at("template").replaceChildren(at("template").firstElementChild, ...TEMPLATE_NAMES.map((name) =>
    element("option", { value: name, selected: name === chosen }, new Template(name).label())));
}

at("language").addEventListener("click", () => {
  setLanguage(text("other"), { keep: true });
  showLanguage();
  if (!running) show(conversation);
  if (model?.description) findModel();
});

at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("glm-theme", root.dataset.theme); // start.js reads it
  } catch { /* it is kept until the page is left */ }
});

showLanguage();
findModel();
at("question").focus();
