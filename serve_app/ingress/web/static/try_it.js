// "Try it" on the API reference: each example can be changed and sent with the caller's key. Without scripts the page stays as it is.

import { SERVICE, storeKey, storedKey } from "./api.js";
import { button, element } from "./dom.js";
import { language } from "./language.js";

const WORDS = {
  en: { try: "Try it", send: "Send", stop: "Stop", key: "API key, if the service asks for one", body: "Request body", file: "File for the field {0}" },
  zh: { try: "试一试", send: "发送", stop: "停止", key: "API 密钥（服务要求时填写）", body: "请求正文", file: "字段 {0} 的文件" },
};
const say = (key, value = "") => WORDS[language][key].replace("{0}", value);
const MAX_SHOWN = 200_000; // characters

for (const example of document.querySelectorAll("[data-path]")) {
  example.append(button(say("try"), ({ currentTarget }) => currentTarget.replaceWith(panel(example.dataset))));
}

/** The fields, the buttons and the response of one example. */
function panel({ method, path, kind, body }) {
  let typed = false;
  const key = element("input", { type: "password", value: storedKey(), autocomplete: "off", "aria-label": say("key"), placeholder: say("key"), input: () => { typed = true; } });
  const address = element("input", { type: "text", value: path, "aria-label": "URL" });
  const form = kind === "multipart/form-data" ? formFields(JSON.parse(body)) : null;
  const content = body && !form ? element("textarea", { rows: Math.min(20, body.split("\n").length + 1), value: body, spellcheck: false, "aria-label": say("body") }) : null;
  const shown = element("pre", { tabIndex: 0, "aria-live": "polite" });
  let running = null;
  const send = element("button", { type: "submit" }, say("send"));
  const submit = async (event) => {
    event.preventDefault();
    if (running) return running.abort();
    running = new AbortController();
    send.textContent = say("stop");
    if (typed) storeKey(key.value.trim());
    else key.value = storedKey(); // another example may have changed it
    const headers = key.value.trim() ? { Authorization: `Bearer ${key.value.trim()}` } : {};
    if (content) headers["Content-Type"] = "application/json";
    try {
      await show(shown, await fetch(new URL(address.value.replace(/^\//, ""), SERVICE), {
        method, headers, body: form ? form.data() : content?.value, signal: running.signal, credentials: "omit",
      }));
    } catch (error) {
      shown.textContent += `\n${error.message}`;
    }
    running = null;
    send.textContent = say("send");
  };
  return element("form", { className: "try", submit }, ...[address, key, content, ...(form?.inputs ?? []), send, shown].filter(Boolean));
}

function formFields(fields) {
  const inputs = Object.entries(fields).map(([name, value]) => (String(value).startsWith("@")
    ? element("input", { type: "file", name, "aria-label": say("file", name) })
    : element("input", { type: "text", name, value, "aria-label": name })));
  const data = () => {
    const made = new FormData();
    for (const each of inputs) {
      if (each.type === "file") for (const file of each.files) made.append(each.name, file);
      else made.append(each.name, each.value);
    }
    return made;
  };
  return { inputs, data };
}

/** Shows status and body as they arrive; JSON is indented once it is complete. */
async function show(shown, response) {
  const status = `${response.status} ${response.statusText}\n\n`;
  shown.textContent = status;
  let received = "";
  for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    received += value;
    shown.textContent = status + received.slice(0, MAX_SHOWN);
  }
  try {
    shown.textContent = status + JSON.stringify(JSON.parse(received), null, 2).slice(0, MAX_SHOWN);
  } catch { /* a stream, or another format */ }
}
