// Checks of extracted fields: each returns "" or what is doubtful, in the page's language.

import { language } from "./language.js";

const WORDS = {
  en: {
    empty: "empty", phone: "not a Chinese phone number", tracking: "not in the form of a waybill number",
    date: "not a date", amount: "not an amount", number: "an invoice number has 8 or 20 digits",
    code: "the check digit of the unified social credit code is wrong", codeForm: "a tax number has 18 characters",
    sum: "amount and tax do not add up to the total", words: "the amount in words is not the total",
  },
  zh: {
    empty: "为空", phone: "不是有效的电话号码", tracking: "不符合运单号格式", date: "不是有效日期", amount: "不是有效金额",
    number: "发票号码应为 8 位或 20 位数字", code: "统一社会信用代码校验位不符", codeForm: "税号应为 18 位",
    sum: "金额与税额之和不等于价税合计", words: "大写金额与价税合计不符",
  },
};
const say = (key, isRight) => (isRight ? "" : WORDS[language][key]);

export const filled = (value) => say("empty", value.trim() !== "");
export const phone = (value) => say("phone", /^(\+?86[- ]?)?1[3-9]\d{9}$|^0\d{2,3}-?\d{7,8}$/.test(value.replaceAll(" ", "")));
export const trackingNumber = (value) => say("tracking", /^[A-Z]{0,4}\d{8,20}$/.test(value));
export const invoiceNumber = (value) => say("number", /^(\d{8}|\d{20})$/.test(value));
export const amount = (value) => say("amount", !Number.isNaN(numberOf(value)));

export function date(value) {
  const match = /^(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})\s*日?$/.exec(value.trim());
  if (!match) return say("date", false);
  const [year, month, day] = match.slice(1).map(Number);
  const found = new Date(Date.UTC(year, month - 1, day));
  return say("date", found.getUTCMonth() === month - 1 && found.getUTCDate() === day);
}

/** The unified social credit code of a company, with its check digit (GB 32100-2015). */
export function partyCode(value) {
  const letters = "0123456789ABCDEFGHJKLMNPQRTUWXY";
  const digits = [...value.trim().toUpperCase()].map((each) => letters.indexOf(each));
  if (digits.length !== 18 || digits.includes(-1)) return say("codeForm", false);
  const weighted = digits.slice(0, 17).reduce((total, digit, index) => total + digit * (3 ** index % 31), 0);
  return say("code", (31 - (weighted % 31)) % 31 === digits[17]);
}

/** A check of several fields: {fields, doubt(values)}; it is not made while one of them is empty. */
const together = (keys, key, isRight) => ({
  fields: keys,
  doubt: (values) => say(key, keys.some((each) => !values[each]) || isRight(...keys.map((each) => values[each]))),
});

export const sum = (net, tax, total) =>
  together([net, tax, total], "sum", (a, b, c) => Math.abs(numberOf(a) + numberOf(b) - numberOf(c)) < 0.005);

export const amountInWords = (words, total) =>
  together([words, total], "words", (a, b) => Math.abs(amountOfWords(a) - numberOf(b)) < 0.005);

export function numberOf(value) {
  const plain = value.trim().replace(/^[¥￥]\s*/, "").replace(/元$/, "");
  return /^-?\d{1,3}(,\d{3})*(\.\d{1,2})?$|^-?\d+(\.\d{1,2})?$/.test(plain) ? Number(plain.replaceAll(",", "")) : NaN;
}

const DIGITS = "零壹贰叁肆伍陆柒捌玖";
const UNITS = { 拾: 10, 佰: 100, 仟: 1000 };

/** The amount that Chinese capital numerals write, such as 壹仟贰佰叁拾元伍角整; NaN if they are none. */
export function amountOfWords(words) {
  let [total, section, digit] = [0, 0, 0];
  for (const each of words.trim().replace(/^(人民币|[（(]大写[)）])/, "").replaceAll("圆", "元")) {
    if (DIGITS.includes(each)) digit = DIGITS.indexOf(each);
    else if (each in UNITS) [section, digit] = [section + digit * UNITS[each], 0];
    else if (each === "万" || each === "亿") {
      [total, section, digit] = [(total + section + digit) * (each === "万" ? 1e4 : 1e8), 0, 0];
    } else if (each === "元") [total, section, digit] = [total + section + digit, 0, 0];
    else if (each === "角") [total, digit] = [total + digit / 10, 0];
    else if (each === "分") [total, digit] = [total + digit / 100, 0];
    else if (each !== "整" && each !== "正") return NaN;
  }
  return total + section + digit;
}
