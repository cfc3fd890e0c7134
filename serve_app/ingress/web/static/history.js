// Conversations in this browser's IndexedDB, never anywhere else; export as a JSON file.

import { dataUrl } from "./attachments.js";
import { element } from "./dom.js";
import { TEMPLATE_NAMES, Template } from "./templates.js";

const [NAME, STORE, KEPT] = ["glm-conversations", "conversations", 200];
let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, work) {
  const store = (await database()).transaction(STORE, mode).objectStore(STORE);
  return new Promise((resolve, reject) => {
    const request = work(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keeps the conversation; the oldest above 200 are deleted. Without IndexedDB (a private window) nothing is kept. */
export async function save(conversation) {
  try {
    const turns = conversation.turns.map((turn) => ({ ...turn, template: turn.template && { name: turn.template.name, brief: turn.template.brief } }));
    await run("readwrite", (store) => store.put({ ...conversation, turns, updated: Date.now() }));
    if (await run("readonly", (store) => store.count()) <= KEPT) return;
    for (const each of (await list()).slice(KEPT)) await remove(each.id);
  } catch { /* the conversation goes on without a history */ }
}

/** All conversations, the newest first; without those that this version can't read. */
export async function list() {
  try {
    const found = await run("readonly", (store) => store.getAll());
    return found.flatMap(restored).sort((one, other) => other.updated - one.updated);
  } catch {
    return [];
  }
}

function restored(conversation) {
  try {
    for (const turn of conversation.turns) {
      const { name, brief } = turn.template ?? {};
      turn.template = TEMPLATE_NAMES.includes(name) ? new Template(name, brief) : null;
      turn.answer.uploads ??= conversation.turns.flatMap((each) => each.attachments);
      if (turn.answer.state === "waiting" || turn.answer.state === "streaming") turn.answer.state = "stopped";
    }
    return [conversation];
  } catch {
    return [];
  }
}

export const remove = (id) => run("readwrite", (store) => store.delete(id));
export const clear = () => run("readwrite", (store) => store.clear());

/** Downloads conversations as JSON, with their pictures as data URLs. */
export async function download(conversations, name) {
  const content = await Promise.all(conversations.map(async ({ id, updated, turns }) => ({
    id,
    updated: new Date(updated).toISOString(),
    turns: await Promise.all(turns.map(async ({ question, attachments, template, answer }) => ({
      question,
      template: template?.name ?? null,
      attachments: await Promise.all(attachments.map(async (each) => ({ name: each.name, pages: each.pages, url: await dataUrl(each) }))),
      answer: { text: answer.text, reasoning: answer.reasoning, rating: answer.rating, usage: answer.usage, boxes: answer.boxes },
    }))),
  })));
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
