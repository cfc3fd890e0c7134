// Pictures and PDFs of a question: checked, made smaller where the model would do so anyway, shown as a list.

import { button, element } from "./dom.js";
import { text } from "./language.js";

const PIXELS_PER_TOKEN = 28 * 28; // of GLM-4.1V and GLM-4.6V; models with fewer pixels make pictures smaller themselves
const QUALITY = 0.92;
const UNDECODED = /\.(heic|heif|tiff?)$/i; // the service reads them, not every browser does
const encoded = new WeakMap(); // blob -> promise of its data URL

/** An attachment of a file: {name, type, blob, width, height, original, pages}. Throws Error that says what is wrong. */
export async function attachment(file, limits) {
  const name = file.name || "picture.png";
  const made = { name, type: file.type, blob: file, width: 0, height: 0, original: null, pages: "" };
  if (file.type === "application/pdf" || /\.pdf$/i.test(name)) return checked({ ...made, type: "application/pdf" }, limits);
  if (!file.type.startsWith("image/") && !UNDECODED.test(name)) throw new Error(text("notAccepted", name));
  const picture = await createImageBitmap(file).catch(() => null); // upright, as its EXIF data say
  if (!picture) return checked(made, limits);
  const { width, height } = picture;
  const scale = Math.min(1, Math.sqrt((limits.maxImageTokens * PIXELS_PER_TOKEN) / (width * height)));
  Object.assign(made, { width: Math.round(width * scale), height: Math.round(height * scale) });
  if (scale < 1) {
    made.original = [width, height];
    made.blob = await drawn(picture, made.width, made.height);
    made.type = made.blob.type;
  }
  picture.close();
  return checked(made, limits);
}

function checked(made, limits) {
  if (made.blob.size <= limits.maxImageBytes) return made;
  const [size, most] = [made.blob.size, limits.maxImageBytes].map((bytes) => (bytes / 2 ** 20).toFixed(1));
  throw new Error(text("tooLarge", made.name, size, most));
}

async function drawn(picture, width, height) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // under transparent pixels, as the service does it
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

/** The attachment as a data URL; computed once. */
export function dataUrl({ blob, type }) {
  if (!encoded.has(blob)) {
    encoded.set(blob, new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.replace(/^data:[^;,]*/, `data:${type || "application/octet-stream"}`));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(blob);
    }));
  }
  return encoded.get(blob);
}

/** The part of a chat message that carries the attachment. */
export async function messagePart(attached) {
  const url = await dataUrl(attached);
  if (attached.type !== "application/pdf") return { type: "image_url", image_url: { url } };
  return { type: "file", file: { filename: attached.name, file_data: url, ...(attached.pages ? { pages: attached.pages } : {}) } };
}

/** The attachments of the next question, within the limits that `limits()` returns or promises; `changed` is called after each change. */
export class AttachmentList {
  constructor(list, error, limits, changed = () => {}) {
    Object.assign(this, { list, error, limits, changed, items: [], reading: "", refused: 0, pending: Promise.resolve() });
  }

  /** Adds files after those of earlier calls. */
  add(files) {
    this.pending = this.pending.then(() => this.read(files));
    return this.pending;
  }

  /** Waits for the files that are being read; returns whether all of them were accepted. */
  async allRead() {
    const refused = this.refused;
    await this.pending;
    return this.refused === refused;
  }

  async read(files) {
    this.say("");
    const limits = await this.limits();
    for (const file of files) {
      if (this.items.length >= limits.maxImages) return this.refuse(text("tooMany", limits.maxImages));
      this.reading = file.name;
      this.show(); // a photograph of a phone takes up to a second
      try {
        this.items.push(await attachment(file, limits));
      } catch (error) {
        this.refuse(error.message);
      }
      this.reading = "";
      this.show();
    }
  }

  refuse(message) {
    this.refused += 1;
    this.say(message);
  }

  take() {
    const taken = this.items;
    this.items = [];
    this.show();
    return taken;
  }

  restore(items) {
    this.items = [...items];
    this.show();
  }

  say(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
  }

  show() {
    const reading = this.reading ? [element("li", { className: "reading" }, text("reading", this.reading))] : [];
    this.list.replaceChildren(...this.items.map((each) => this.entry(each)), ...reading);
    this.changed();
  }

  entry(attached) {
    const isPdf = attached.type === "application/pdf";
    const pages = element("input", {
      type: "text", value: attached.pages, placeholder: text("allPages"), "aria-label": text("pages", attached.name),
      input: ({ target }) => { attached.pages = target.value; },
    });
    const remove = button("×", () => {
      this.items = this.items.filter((each) => each !== attached);
      this.show();
    }, { "aria-label": text("remove", attached.name), title: text("remove", attached.name), className: "remove" });
    const note = attached.original ? element("small", {}, text("shrunk", ...attached.original, attached.width, attached.height)) : null;
    return element("li", {}, thumbnail(attached), element("span", { className: "name" }, attached.name), note, isPdf ? pages : null, remove);
  }
}

/** A small view of the picture, or the kind of file where the browser can't show it. */
export function thumbnail(attached) {
  if (!attached.width) return element("span", { className: "file" }, attached.type === "application/pdf" ? "PDF" : attached.name.split(".").pop().toUpperCase());
  return element("img", { src: objectUrl(attached.blob), alt: "", className: "thumbnail" });
}

const urls = new Map();

export function objectUrl(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

/** Frees the pictures of all object URLs; what is still shown gets new ones. */
export function revokeObjectUrls() {
  for (const url of urls.values()) URL.revokeObjectURL(url);
  urls.clear();
}
