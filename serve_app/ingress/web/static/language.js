// Texts of the page and the widget in English and Chinese.

const TEXTS = {
  en: {
    new: "New conversation", history: "History", theme: "Light or dark", welcome: "Ask about a picture",
    welcomeText: "Drop, paste, choose or photograph pictures or a PDF, then ask a question.",
    samples: "Or try a sample of the demo model:", question: "Question", placeholder: "Ask about the picture, such as: What is the waybill number?",
    attach: "Add picture or PDF", camera: "Take a photo", attached: "Attached files", options: "Options",
    temperature: "Temperature", maxTokens: "Longest answer (tokens)", thinking: "Reason before answering",
    system: "Instructions to the model", send: "Ask", stop: "Stop",
    hint: "Enter asks, Shift+Enter begins a new line. Conversations stay in this browser.",
    drop: "Drop pictures or a PDF here", login: "API key",
    loginText: "This service needs an API key. It is kept until this tab is closed.", key: "Key",
    loginButton: "Log in", capture: "Use this photo", close: "Close", cameraView: "Camera",
    cameraRefused: "The camera can't be used: {0}", historyText: "Kept in this browser only.", clear: "Delete all",
    code: "The same request as a program", copy: "Copy", copied: "Copied", copyFailed: "Could not copy", picture: "Picture", remove: "Remove {0}",
    pages: "Pages of {0}, such as 1-3,7", allPages: "all pages",
    shrunk: "made smaller in the browser: {0} × {1} → {2} × {3}", tooLarge: "{0} has {1} MB; at most {2} MB are accepted.",
    tooManyInAll: "The conversation would have {0} pictures and files; the service accepts {1}. Begin a new conversation, or ask without them.",
    tooLargeInAll: "The pictures and files of the conversation would have {0} MB; the service accepts {1} MB. Begin a new conversation, or ask without them.",
    tooMany: "At most {0} pictures are accepted.", notAccepted: "{0} is neither a picture nor a PDF.",
    answering: "Answering …", waiting: "Waiting for the first word …", done: "The answer is complete.",
    stopped: "Stopped.", cut: "The answer reached its longest length.", continue: "Continue", regenerate: "Answer again",
    edit: "Edit", save: "Ask again", cancel: "Cancel", reasoning: "Reasoning", copyAnswer: "Copy answer",
    copyCode: "As a program", up: "✓ Right", down: "✗ Wrong", rated: "Thank you.",
    retry: "Try again", retryIn: "Try again in {0} s", you: "Question", answer: "Answer",
    seconds: "{0} s", firstWord: "first word after {0} s", tokens: "{0} tokens read ({1} of pictures), {2} written",
    cached: "from the answer cache", scaled: "The model saw {0} at {1} × {2} instead of {3} × {4} pixels.",
    page: "page {0}", pictureNumber: "picture {0}", box: "Region {0}", boxes: "Regions in the picture",
    open: "Enlarge {0}", moreRows: "{0} more rows are not shown.", unreachable: "The service can't be reached. Is it running?",
    broken: "The connection broke before the answer was complete.", untitled: "Conversation", delete: "Delete {0}",
    export: "Export {0}", exportAll: "Export", noHistory: "Nothing yet.", template: "Extract fields",
    templateNone: "No fields", fields: "Fields", doubt: "Check this: {0}", noDoubt: "All checks passed.",
    doubts: "{0} fields to check", copyJson: "Copy as JSON", switchTo: "中文", other: "zh",
    demo: "Demo model: it knows only pictures like the samples.", demoModel: "{0} (demo model)", reading: "Reading {0} …", jsonError: "The answer is not complete JSON.",
    unsure: "the model is not sure ({0} %)", loading: "The model is not ready yet.", otherKey: "Use another key",
    proxy: "A server in front of the service answered with HTTP {0}.{1}", proxy413: " It accepts no request of this size: send fewer or smaller pictures.",
    proxy504: " It did not wait for the answer: try again, or ask for a shorter one.",
  },
  zh: {
    new: "新对话", history: "历史记录", theme: "浅色或深色", welcome: "对图片提问",
    welcomeText: "拖入、粘贴、选择或拍摄图片（也可以是 PDF），然后输入问题。",
    samples: "也可以试试演示模型的示例：", question: "问题", placeholder: "输入关于图片的问题，例如：运单号是多少？",
    attach: "添加图片或 PDF", camera: "拍照", attached: "已添加的文件", options: "选项",
    temperature: "温度", maxTokens: "回答最长 token 数", thinking: "回答前先思考",
    system: "给模型的指示", send: "提问", stop: "停止",
    hint: "回车提问，Shift+回车换行。对话只保存在本浏览器中。",
    drop: "把图片或 PDF 拖到这里", login: "API 密钥",
    loginText: "此服务需要 API 密钥。密钥只保留到关闭此标签页为止。", key: "密钥",
    loginButton: "登录", capture: "使用这张照片", close: "关闭", cameraView: "摄像头",
    cameraRefused: "无法使用摄像头：{0}", historyText: "只保存在本浏览器中。", clear: "全部删除",
    code: "用程序发送同样的请求", copy: "复制", copied: "已复制", copyFailed: "无法复制", picture: "图片", remove: "移除 {0}",
    pages: "{0} 的页码，例如 1-3,7", allPages: "全部页",
    shrunk: "已在浏览器中缩小：{0} × {1} → {2} × {3}", tooLarge: "{0} 有 {1} MB,最多接受 {2} MB。",
    tooManyInAll: "对话将有 {0} 个图片和文件，服务最多接受 {1} 个。请开始新对话，或不带它们提问。",
    tooLargeInAll: "对话的图片和文件将有 {0} MB，服务最多接受 {1} MB。请开始新对话，或不带它们提问。",
    tooMany: "最多接受 {0} 张图片。", notAccepted: "{0} 既不是图片也不是 PDF。",
    answering: "正在回答……", waiting: "正在等待第一个字……", done: "回答完毕。",
    stopped: "已停止。", cut: "回答达到了最大长度。", continue: "继续", regenerate: "重新回答",
    edit: "编辑", save: "重新提问", cancel: "取消", reasoning: "思考过程", copyAnswer: "复制回答",
    copyCode: "生成代码", up: "✓ 正确", down: "✗ 有误", rated: "谢谢。",
    retry: "重试", retryIn: "{0} 秒后重试", you: "问题", answer: "回答",
    seconds: "{0} 秒", firstWord: "首字 {0} 秒", tokens: "读入 {0} 个 token（图片 {1} 个），写出 {2} 个",
    cached: "来自回答缓存", scaled: "模型看到的 {0} 为 {1} × {2} 像素，原图为 {3} × {4}。",
    page: "第 {0} 页", pictureNumber: "第 {0} 张图", box: "区域 {0}", boxes: "图中的区域",
    open: "放大 {0}", moreRows: "另有 {0} 行未显示。", unreachable: "无法连接服务。服务在运行吗？",
    broken: "回答还没有完成，连接就断开了。", untitled: "对话", delete: "删除 {0}",
    export: "导出 {0}", exportAll: "导出", noHistory: "还没有记录。", template: "提取字段",
    templateNone: "不提取字段", fields: "字段", doubt: "请核对：{0}", noDoubt: "全部校验通过。",
    doubts: "有 {0} 个字段需要核对", copyJson: "复制为 JSON", switchTo: "English", other: "en",
    demo: "演示模型：只认识与示例类似的图片。", demoModel: "{0}（演示模型）", reading: "正在读取 {0} ……", jsonError: "回答不是完整的 JSON。",
    unsure: "模型把握不大（{0} %）", loading: "模型尚未就绪。", otherKey: "换一个密钥",
    proxy: "服务前面的服务器返回了 HTTP {0}。{1}", proxy413: "它不接受这么大的请求：请减少图片，或使用更小的图片。",
    proxy504: "它没有等到回答：请重试，或要求更短的回答。",
  },
};
const STORED = "glm-language";

function initial() {
  try {
    const stored = localStorage.getItem(STORED);
    if (Object.hasOwn(TEXTS, stored)) return stored;
  } catch { /* storage is off: the browser's language is used */ }
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export let language = initial();

/** `tag` is a language tag such as zh-CN; a language without texts changes nothing. */
export function setLanguage(tag, { keep = false } = {}) {
  const [name] = tag.toLowerCase().split("-");
  if (!Object.hasOwn(TEXTS, name)) return;
  language = name;
  try {
    if (keep) localStorage.setItem(STORED, name);
  } catch { /* it is kept until the page is left */ }
}

/** The text `key` in the current language; {0}, {1}, … are replaced by the values. */
export function text(key, ...values) {
  return (TEXTS[language][key] ?? key).replace(/\{(\d)\}/g, (_, index) => values[index]);
}

/** Sets the texts of elements with data-text, data-label (aria-label and title) and data-placeholder. */
export function translate(root) {
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = text(each.dataset.text);
  for (const each of root.querySelectorAll("[data-placeholder]")) each.placeholder = text(each.dataset.placeholder);
  for (const each of root.querySelectorAll("[data-label]")) {
    each.setAttribute("aria-label", text(each.dataset.label));
    if (each.title) each.title = text(each.dataset.label);
  }
}
