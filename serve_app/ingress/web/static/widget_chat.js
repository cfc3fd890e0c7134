// The chat of the widget: a button that opens a panel, in a shadow tree, so that styles of the site do not meet its own.

import { serviceLimits } from "./api.js";
import { AttachmentList, objectUrl } from "./attachments.js";
import { ask, excess, newTurn } from "./conversation.js";
import { button, element, isComposing } from "./dom.js";
import { language, setLanguage, text } from "./language.js";
import { MarkdownView } from "./markdown.js";
import { retryButton } from "./retry.js";
import { WidgetToken } from "./widget_token.js";

const STYLES = new URL("./widget.css", import.meta.url);
const REDRAW_MS = 50;

/** Adds the chat to the page. `settings` are the data attributes of the script. */
export function start({ token = "", tokenUrl = "", language: chosen, title, greeting, open }) {
  if (chosen) setLanguage(chosen);
  const host = element("glm-chat");
  const root = host.attachShadow({ mode: "open" });
  root.append(element("link", { rel: "stylesheet", href: STYLES.href }));
  const chat = new Chat(new WidgetToken(token, tokenUrl), title || text("welcome"), greeting || text("welcomeText"));
  root.append(chat.launcher, chat.panel);
  document.body.append(host);
  if (open !== undefined) chat.toggle(true);
  return chat;
}

class Chat {
  constructor(token, title, greeting) {
    this.token = token;
    this.turns = [];
    this.running = null;
    this.launcher = button(title, () => this.toggle(true), { className: "launcher", "aria-expanded": "false" });
    this.greeting = element("p", { className: "greeting" }, greeting);
    this.log = element("div", { className: "log", tabIndex: 0, role: "group", "aria-label": title }, this.greeting);
    this.status = element("p", { className: "status", role: "status" });
    this.ended = element("p", { className: "visually-hidden", role: "status" }); // the answer, for screen readers
    this.list = element("ul", { className: "files", "aria-label": text("attached") });
    this.error = element("p", { className: "error", role: "alert", hidden: true });
    this.files = new AttachmentList(this.list, this.error, serviceLimits);
    const input = element("input", { type: "file", multiple: true, accept: "image/*,.heic,.heif,application/pdf", hidden: true,
      change: () => { this.files.add([...input.files]); input.value = ""; } });
    this.question = element("textarea", { rows: 2, placeholder: text("placeholder"), "aria-label": text("question"),
      keydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey && !isComposing(event)) { event.preventDefault(); this.submit(); }
      } });
    this.send = button(text("send"), () => this.submit(), { className: "primary" });
    this.stop = button(text("stop"), () => this.running?.abort(), { className: "primary", hidden: true });
    this.restart = button(text("new"), () => this.begin(), { hidden: true });
    this.panel = element("section", { className: "panel", hidden: true, lang: language === "zh" ? "zh-CN" : "en", "aria-label": title,
      keydown: (event) => { if (event.key === "Escape" && !isComposing(event)) this.running ? this.running.abort() : this.toggle(false); },
      paste: ({ clipboardData }) => this.files.add([...clipboardData.files]),
      dragover: (event) => event.preventDefault(),
      drop: (event) => { event.preventDefault(); this.files.add([...event.dataTransfer.files]); } },
    element("header", {}, element("h2", {}, title), this.restart, button("×", () => this.toggle(false), { "aria-label": text("close") })),
    this.log, this.status, this.ended,
    element("div", { className: "composer" }, this.list, this.error, input, this.question,
      element("div", { className: "row" }, button(text("attach"), () => input.click()), this.send, this.stop)));
  }

  toggle(isOpen) {
    this.panel.hidden = !isOpen;
    this.launcher.hidden = isOpen;
    this.launcher.setAttribute("aria-expanded", String(isOpen));
    (isOpen ? this.question : this.launcher).focus();
  }

  /** Begins a new conversation: the service accepts so many pictures and so much text in one. */
  begin() {
    this.running?.abort();
    this.running = null;
    this.show(false);
    this.turns = [];
    this.log.replaceChildren(this.greeting);
    this.files.say("");
    this.restart.hidden = true;
    this.question.focus();
  }

  async submit() {
    const limits = await serviceLimits();
    if (!await this.files.allRead()) return; // the question stays, with the reason
    const question = this.question.value.trim();
    if (this.running || !question) return this.question.focus();
    const refused = excess(this.turns, this.files.items, limits);
    if (refused) return this.files.say(refused);
    this.files.say("");
    this.question.value = "";
    const turn = newTurn(question, this.files.take());
    this.turns.push(turn);
    this.restart.hidden = false;
    const content = element("div", { className: "answer" });
    const error = element("div", { className: "error", role: "alert", hidden: true });
    const pictures = turn.attachments.map((each) => (each.width
      ? element("img", { src: objectUrl(each.blob), alt: each.name }) : element("span", {}, each.name)));
    this.log.append(element("div", { className: "question" }, ...pictures, element("p", {}, question)), content, error);
    return this.answer(turn, { view: new MarkdownView(content), error });
  }

  async answer(turn, shown, isRetry = false) {
    if (this.running) return;
    const { view, error } = shown;
    const { turns } = this; // another conversation may have begun when the answer ends
    const controller = this.running = new AbortController();
    this.show(true);
    this.ended.textContent = "";
    error.hidden = true;
    let [timer, wait] = [0, REDRAW_MS];
    const draw = () => {
      const begun = performance.now();
      timer = 0;
      view.show(turn.answer.text);
      this.log.scrollTop = this.log.scrollHeight;
      wait = Math.max(REDRAW_MS, 4 * (performance.now() - begun));
    };
    try {
      const key = await this.token.get();
      await ask(turns, turns.indexOf(turn), {
        options: { temperature: 0 }, key, signal: controller.signal, changed: () => { timer ||= setTimeout(draw, wait); },
      });
    } catch (problem) { // the site gave no token
      turn.answer.error = { message: problem.message, status: 0, code: "" };
    }
    clearTimeout(timer);
    if (this.running !== controller) return;
    this.running = null;
    this.show(false);
    draw();
    this.ended.textContent = { done: `${text("done")} ${turn.answer.text.slice(0, 300)}`, stopped: text("stopped") }[turn.answer.state] ?? "";
    if (!turn.answer.error) return;
    if (turn.answer.error.status === 401 && !isRetry && this.token.renew()) return this.answer(turn, shown, true);
    error.replaceChildren(element("p", {}, turn.answer.error.message), retryButton(turn.answer.error, () => this.answer(turn, shown)));
    error.hidden = false;
  }

  show(isRunning) {
    this.stop.hidden = !isRunning;
    this.send.hidden = isRunning;
    this.status.textContent = isRunning ? text("answering") : "";
  }
}
