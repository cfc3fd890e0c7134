// Markdown to DOM: marked finds the tokens, and each becomes an element. No HTML is parsed, and nothing is loaded.

import { element } from "./dom.js";
import { text } from "./language.js";
import { Marked } from "./vendor/marked.js";

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const MAX_ROWS = 300;
const MAX_COLUMNS = 40;
const MAX_DEPTH = 30;
const MAX_CHARACTERS = 200_000;
const MAX_FORMULAS = 1000;
const MAX_UNCLOSED = 20; // formulas without an end; each is searched for it, and the paragraph is read again
const FORMULAS = [ // of at most 2,000 characters
  { level: "block", start: /^\$\$/m, rule: /^\$\$([\s\S]{1,2000}?)\$\$(?:\n|$)/, display: true },
  { level: "block", start: /^\\\[/m, rule: /^\\\[([\s\S]{1,2000}?)\\\](?:\n|$)/, display: true },
  { level: "inline", start: /\$\$/, rule: /^\$\$([^$]{1,2000}?)\$\$/, display: true },
  { level: "inline", start: /\\\[/, rule: /^\\\[([\s\S]{1,2000}?)\\\]/, display: true },
  { level: "inline", start: /\\\(/, rule: /^\\\(([\s\S]{1,2000}?)\\\)/, display: false },
  { level: "inline", start: /\$/, rule: /^\$(?!\s)((?:[^$\\\n]|\\.){1,2000}?)(?<!\s)\$(?!\d)/, display: false },
];
const OPTIONS = { gfm: true, breaks: true };
const withoutFormulas = new Marked(OPTIONS);
const withFormulas = new Marked({
  ...OPTIONS,
  extensions: FORMULAS.map(({ level, start, rule, display }, index) => ({
    name: `formula${index}`,
    level,
    start: (source) => { const at = source.search(start); return at < 0 ? undefined : at; },
    tokenizer: (source) => {
      const match = rule.exec(source);
      return match ? { type: `formula${index}`, raw: match[0], formula: match[1].trim(), display } : undefined;
    },
  })),
});

/** The parser for a text: without formulas where there are more of them than could be found in a short time. */
function parserFor(source) {
  const count = (mark) => source.split(mark).length - 1;
  const [opened, closed] = [count("\\[") + count("\\("), count("\\]") + count("\\)")];
  const isFlood = opened + count("$") / 2 > MAX_FORMULAS || opened - closed > MAX_UNCLOSED;
  return isFlood ? withoutFormulas : withFormulas;
}

/** Shows Markdown in an element. Blocks that did not change since the last call stay as they are. */
export class MarkdownView {
  constructor(target) {
    this.target = target;
    this.blocks = []; // of the last call: {raw, node}
  }

  show(source) {
    let tokens;
    try {
      if (source.length > MAX_CHARACTERS) throw new RangeError("too long to be parsed");
      tokens = parserFor(source).lexer(source).filter((token) => token.type !== "space" && token.type !== "def");
    } catch { // too long or nested too deeply: as plain text
      tokens = [{ type: "plain", raw: source }];
    }
    tokens.forEach((token, index) => {
      const known = this.blocks[index];
      if (known?.raw === token.raw) return;
      const node = blockOrText(token);
      if (known) known.node.replaceWith(node);
      else this.target.append(node);
      this.blocks[index] = { raw: token.raw, node };
    });
    for (const { node } of this.blocks.splice(tokens.length)) node.remove();
  }
}

function blockOrText(token) {
  try {
    return block(token, 0);
  } catch { // more inline elements than a call may have arguments
    return element("p", { className: "plain" }, token.raw);
  }
}

function block(token, depth) {
  if (depth > MAX_DEPTH) return element("p", { className: "plain" }, token.raw);
  switch (token.type) {
    case "paragraph":
    case "text":
      return element("p", {}, ...inlines(token.tokens ?? [], depth));
    case "heading": // the page's own headings are h1 and h2
      return element(`h${Math.min(token.depth + 2, 6)}`, {}, ...inlines(token.tokens, depth));
    case "code":
      return element("pre", { tabIndex: 0 }, element("code", {}, token.text));
    case "blockquote":
      return element("blockquote", {}, ...token.tokens.map((each) => block(each, depth + 1)));
    case "list": {
      const list = element(token.ordered ? "ol" : "ul", {}, ...token.items.map((item) => listItem(item, depth)));
      if (token.ordered && token.start !== 1) list.start = token.start;
      return list;
    }
    case "table":
      return table(token, depth);
    case "hr":
      return element("hr");
    case "space":
    case "def":
      return element("span");
    default:
      return token.formula === undefined
        ? element("p", { className: "plain" }, token.raw)
        : element("p", { className: "formula" }, formula(token));
  }
}

function listItem(item, depth) {
  const mark = item.task ? element("input", { type: "checkbox", checked: item.checked, disabled: true, "aria-label": item.checked ? "✓" : "–" }) : null;
  const content = item.tokens.filter((each) => each.type !== "checkbox").flatMap((each) =>
    each.type === "text" && !item.loose ? inlines(each.tokens ?? [], depth) : [block(each, depth + 1)]);
  return element("li", {}, mark, ...content);
}

function table(token, depth) {
  const cells = (row, name) => row.slice(0, MAX_COLUMNS).map((cell) =>
    element(name, { className: cell.align ? `align-${cell.align}` : "" }, ...inlines(cell.tokens, depth)));
  const rows = token.rows.slice(0, MAX_ROWS).map((row) => element("tr", {}, ...cells(row, "td")));
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...cells(token.header, "th"))), element("tbody", {}, ...rows));
  const rest = token.rows.length - rows.length;
  return element("div", { className: "table", tabIndex: 0, role: "group" }, made, rest > 0 ? element("p", {}, text("moreRows", rest)) : null);
}

function inlines(tokens, depth) {
  return tokens.map((token) => inline(token, depth + 1));
}

function inline(token, depth) {
  if (depth > MAX_DEPTH) return token.raw;
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return element(token.type, {}, ...inlines(token.tokens, depth));
    case "codespan":
      return element("code", {}, token.text);
    case "br":
      return element("br");
    case "escape":
      return token.text;
    case "link":
      return link(token.href, token.tokens ? inlines(token.tokens, depth) : [token.text]);
    case "image": // never loaded: its address could carry the conversation to another host
      return link(token.href, [`[${token.text || token.href}]`]);
    case "text":
      return token.tokens ? element("span", {}, ...inlines(token.tokens, depth)) : decoded(token.text);
    default:
      return token.formula === undefined ? token.raw : formula(token);
  }
}

function link(href, children) {
  if (!SAFE_LINK.test(href)) return element("span", {}, ...children);
  return element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

const ENTITIES = new Map(Object.entries({ amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", times: "×", deg: "°", "#39": "'" }));

function decoded(source) {
  return source.replace(/&(#?\w+);/g, (entity, name) => ENTITIES.get(name) ?? entity);
}

// -- formulas: Temml is loaded with the first one ---------------------------------------------------

let temml = null;

function formula({ formula: source, display }) {
  const shown = element(display ? "div" : "span", { className: "formula" }, element("code", {}, source));
  temml ??= import("./vendor/temml.js").then((module) => module.default);
  temml.then((library) => {
    const options = { displayMode: display, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 20] };
    const tree = library.__renderToMathMLTree(source, options);
    removeStyles(tree);
    shown.replaceChildren(tree.toNode());
  }).catch(() => {}); // it stays as it was written
  return shown;
}

/** Removes style attributes, which the content security policy refuses. */
function removeStyles(node) {
  if (node.attributes) delete node.attributes.style;
  node.children?.forEach(removeStyles);
}
