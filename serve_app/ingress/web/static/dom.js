// Makes elements without HTML strings, so that no text can become markup.

/** An element; `properties` that are functions are listeners, `dataset` and `aria-…` are set as such. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Whether the key belongs to an input method, such as one for Chinese; Safari's last one has only the code 229. */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Copies a text and returns whether that was possible. Over plain http the browser has no `navigator.clipboard`. */
export async function copyText(content) {
  try {
    await navigator.clipboard.writeText(content);
    return true;
  } catch {
    const focused = document.activeElement;
    const field = element("textarea", { value: content, readOnly: true, className: "visually-hidden" });
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.focus({ preventScroll: true });
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus({ preventScroll: true });
    return copied;
  }
}

export function button(label, onClick, properties = {}) {
  return element("button", { type: "button", click: onClick, ...properties }, label);
}
