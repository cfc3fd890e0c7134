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

export function button(label, onClick, properties = {}) {
  return element("button", { type: "button", click: onClick, ...properties }, label);
}
