// Templates of extraction: the fields of a shipping label, a test report and a VAT invoice, with their checks.

import { language } from "./language.js";
import { amount, amountInWords, date, invoiceNumber, partyCode, phone, sum, trackingNumber } from "./checks.js";

const field = (key, zh, en, check = null, required = true) => ({ key, names: { zh, en }, check, required });
const optional = (key, zh, en, check = null) => field(key, zh, en, check, false);

const FIELDS = {
  waybill: [{ zh: "物流面单", en: "Shipping label" }, [
    field("tracking", "运单号", "Waybill number", trackingNumber),
    field("recipient", "收件人", "Recipient"),
    field("phone", "收件人电话", "Recipient's phone", phone),
    field("address", "收件地址", "Delivery address"),
    optional("carrier", "快递公司", "Carrier"),
    optional("sender", "寄件人", "Sender"),
  ], []],
  report: [{ zh: "检测报告", en: "Test report" }, [
    field("title", "报告名称", "Title"),
    field("number", "报告编号", "Report number"),
    field("date", "日期", "Date", date),
    field("party", "委托单位", "Client"),
    optional("stamp", "印章", "Stamp"),
    optional("result", "检测结论", "Result"),
  ], []],
  invoice: [{ zh: "增值税发票", en: "VAT invoice" }, [
    field("title", "发票名称", "Title"),
    field("number", "发票号码", "Invoice number", invoiceNumber),
    field("date", "开票日期", "Date", date),
    field("party", "销售方", "Seller"),
    field("total", "价税合计", "Total with tax", amount),
    optional("seller_code", "销售方税号", "Seller's tax number", partyCode),
    optional("buyer", "购买方", "Buyer"),
    optional("buyer_code", "购买方税号", "Buyer's tax number", partyCode),
    optional("net", "金额", "Amount without tax", amount),
    optional("tax", "税额", "Tax", amount),
    optional("total_in_words", "价税合计(大写)", "Total in words"),
  ], [sum("net", "tax", "total"), amountInWords("total_in_words", "total")]],
};

const QUESTIONS = { zh: "请用JSON格式输出。", en: "Return JSON." };
const LIST = { zh: (names) => `字段:${names}。`, en: (names) => ` Fields: ${names}.` };

/**
 * What a turn keeps of a template; `checks` look at several fields. With `brief`, for the demo model: required fields
 * only, and the question that it was trained for, without their list.
 */
export class Template {
  constructor(name, brief = false) {
    const [names, fields, checks] = FIELDS[name];
    Object.assign(this, { name, brief, names, checks, fields: brief ? fields.filter(({ required }) => required) : fields });
  }

  label() {
    return this.names[language];
  }

  get question() {
    if (this.brief) return QUESTIONS[language];
    const names = this.fields.map(({ key, names: each }) => `${key}(${each[language]})`).join(language === "zh" ? "、" : ", ");
    return QUESTIONS[language] + LIST[language](names);
  }

  get response_format() {
    const schema = {
      type: "object",
      properties: Object.fromEntries(this.fields.map(({ key }) => [key, { type: "string" }])),
      required: this.fields.filter(({ required }) => required).map(({ key }) => key),
      additionalProperties: false,
    };
    return { type: "json_schema", json_schema: { name: this.name, schema, strict: false } };
  }
}

export const TEMPLATE_NAMES = Object.keys(FIELDS);
