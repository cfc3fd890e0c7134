// Sample pictures of the demo model, with questions that it was trained to answer.

import { button, element } from "./dom.js";
import { language, text } from "./language.js";

const SAMPLES = [
  { file: "label.jpg", questions: { zh: ["运单号是多少？", "收件人是谁？"], en: ["What is the waybill number?", "Who is the recipient?"] } },
  { file: "board.jpg", questions: { zh: ["哪个焊点有问题？", "这块板子合格吗？"], en: ["Which solder joint is bad?", "Does the board pass?"] } },
  { file: "document.jpg", questions: { zh: ["总金额是多少？", "公司名称是什么？"], en: ["What is the total?", "What is the company's name?"] } },
];
const folder = new URL("./samples/", import.meta.url);

/** Shows the samples; `choose` gets the picture's file and the question of the button. */
export function showSamples(target, choose) {
  const cards = SAMPLES.map(({ file, questions }) => {
    const url = new URL(file, folder);
    const take = async (question) => {
      const blob = await (await fetch(url)).blob();
      choose([new File([blob], file, { type: "image/jpeg" })], question);
    };
    const buttons = questions[language].map((question) => button(question, () => take(question)));
    return element("li", {}, element("img", { src: url.href, alt: "", loading: "lazy" }), ...buttons);
  });
  target.replaceChildren(element("p", { className: "notice" }, text("demo")), element("p", {}, text("samples")), element("ul", {}, ...cards));
  target.hidden = false;
}
