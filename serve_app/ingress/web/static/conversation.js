// A conversation: its turns, the chat request for one of them, and what the stream adds to its answer.

import { RequestError, send, streamed } from "./api.js";
import { messagePart } from "./attachments.js";
import { text } from "./language.js";

const TEXT_BYTES = 64 * 1024; // kept free for the texts of a request

export function newConversation() {
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, updated: Date.now(), turns: [] };
}

/** A question and its answer; `template` is that of an extraction, or null. */
export function newTurn(question, attachments, template = null) {
  return { question, attachments, template, answer: newAnswer() };
}

/** state: waiting, streaming, done, stopped or failed. */
export function newAnswer() {
  return {
    state: "waiting", id: "", text: "", reasoning: "", finish: "", error: null, boxes: [], images: [], logprobs: [],
    usage: null, timings: null, cached: false, firstMs: 0, totalMs: 0, rating: "", uploads: [],
  };
}

/** The turns that the request for the turn `index` contains: it and the earlier ones, without those that failed. */
export function turnsSent(turns, index) {
  return turns.slice(0, index + 1).filter(({ answer }, place) => place === index || answer.text || !answer.error);
}

/** Why the service would refuse a question with these attachments after these turns; empty if it accepts them. */
export function excess(turns, attached, { maxImages, maxBodyBytes }) {
  const attachments = turnsSent([...turns, newTurn("", attached)], turns.length).flatMap((turn) => turn.attachments);
  if (attachments.length > maxImages) return text("tooManyInAll", attachments.length, maxImages);
  const bytes = attachments.reduce((total, { blob }) => total + Math.ceil(blob.size / 3) * 4, 0); // as base64
  const [size, most] = [bytes, maxBodyBytes].map((each) => (each / 2 ** 20).toFixed(1));
  return bytes && bytes + TEXT_BYTES > maxBodyBytes ? text("tooLargeInAll", size, most) : "";
}

async function questionContent({ question, attachments, template }) {
  const pictures = await Promise.all(attachments.map(messagePart));
  return [...pictures, { type: "text", text: question || template?.question || "" }];
}

/** The chat request for the turn `index`; with `continues`, for the rest of its answer. */
export async function chatBody(turns, index, options, continues = false) {
  const messages = options.system ? [{ role: "system", content: options.system }] : [];
  for (const turn of turnsSent(turns, index)) {
    messages.push({ role: "user", content: await questionContent(turn) });
    if (turn !== turns[index] || continues) messages.push({ role: "assistant", content: turn.answer.text });
  }
  const { template } = turns[index];
  const { system, thinking, max_tokens, ...sampling } = options;
  return {
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...sampling,
    ...(max_tokens ? { max_tokens } : {}),
    ...(thinking === undefined || continues ? {} : { chat_template_kwargs: { enable_thinking: thinking } }),
    ...(continues ? { continue_final_message: true } : {}),
    ...(template && !continues ? { response_format: template.response_format, logprobs: true } : {}),
  };
}

/**
 * Streams the answer of the turn `index`. `changed` is called after each piece. Errors of the service go into the
 * answer; an abort keeps the text so far. With `fresh` the answer cache is passed by.
 */
export async function ask(turns, index, { options, signal, changed, continues = false, fresh = false, key }) {
  const turn = turns[index];
  if (!continues) turn.answer = newAnswer();
  const { answer } = turn;
  const uploads = turnsSent(turns, index).flatMap((each) => each.attachments);
  Object.assign(answer, { state: "waiting", error: null, finish: "", uploads });
  const begun = performance.now();
  const finish = (state) => {
    answer.state = state;
    answer.totalMs = performance.now() - begun;
    changed(turn);
  };
  changed(turn);
  try {
    const headers = fresh ? { "Cache-Control": "no-cache" } : {};
    const body = await chatBody(turns, index, options, continues);
    const response = await send("v1/chat/completions", { body, headers, signal, key, unreachable: text("unreachable") });
    answer.cached = response.headers.get("x-cache") === "hit";
    for await (const chunk of streamed(response, text("broken"))) {
      if (add(answer, chunk) && answer.state === "waiting") {
        answer.state = "streaming";
        answer.firstMs = performance.now() - begun;
      }
      changed(turn);
    }
    finish("done");
  } catch (error) {
    if (error.name === "AbortError") return finish("stopped");
    answer.error = error instanceof RequestError
      ? { message: error.message, code: error.code, status: error.status, retryAfter: error.retryAfter }
      : { message: error.message, code: "", status: 0, retryAfter: 0 };
    finish("failed");
  }
}

/** Adds a chunk to the answer; returns whether it had text. */
function add(answer, chunk) {
  answer.id = chunk.id ?? answer.id;
  answer.usage = chunk.usage ?? answer.usage;
  answer.timings = chunk.timings ?? answer.timings;
  answer.images = chunk.images ?? answer.images;
  const [choice] = chunk.choices;
  if (!choice) return false;
  const { content = "", reasoning_content: reasoning, boxes } = choice.delta;
  answer.text += content;
  answer.reasoning += reasoning ?? "";
  if (boxes) answer.boxes = boxes;
  if (choice.logprobs?.content) answer.logprobs.push(...choice.logprobs.content.map(({ token, logprob }) => [token, logprob]));
  answer.finish = choice.finish_reason ?? answer.finish;
  return Boolean(content || reasoning);
}

/** The attachment and page of each picture that the model saw, in their order. */
export function picturesSeen({ images, uploads = [] }) {
  let next = 0;
  return images.map((image) => {
    const upload = image.upload ?? next;
    next = upload + 1;
    return { attachment: uploads[upload], page: image.page };
  });
}
