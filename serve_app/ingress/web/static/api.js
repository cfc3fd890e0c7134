// Requests to the service: errors as objects, streams as events, and the caller's key of this tab.

import { language, text } from "./language.js";

const here = import.meta.url;
export const SERVICE = here.slice(0, here.lastIndexOf("/web/") + 1); // the service's address, ends with a slash
const KEY = "glm-key";
const MAX_EVENT = 8 * 2 ** 20; // characters

/** What went wrong, in the service's words; `status` is 0 where it did not respond. */
export class RequestError extends Error {
  constructor(message, { status = 0, code = "", retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

let keyInMemory = ""; // where the browser allows no storage

export function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? keyInMemory;
  } catch {
    return keyInMemory;
  }
}

export function storeKey(key) {
  keyInMemory = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch { /* it is kept until the page is left */ }
}

const NO_LIMITS = { maxImages: Infinity, maxImageBytes: Infinity, maxImageTokens: Infinity, maxBodyBytes: Infinity };
let limitsKnown = null;

/** The service's limits of pictures and requests; where they can't be read, none: the service refuses what is too much. */
export function serviceLimits() {
  limitsKnown ??= fetch(new URL("web/limits.json", SERVICE), { credentials: "omit" })
    .then((response) => (response.ok ? response.json() : Promise.reject(new Error(response.statusText))))
    .catch(() => { limitsKnown = null; return NO_LIMITS; });
  return limitsKnown;
}

/** The response to a request; throws RequestError, or AbortError if `signal` was aborted. */
export async function send(path, { body, headers = {}, signal, key = storedKey(), unreachable = "" } = {}) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  const content = body === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(new URL(path, SERVICE), {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: { "Accept-Language": language === "zh" ? "zh-CN" : "en", ...content, ...authorization, ...headers },
      credentials: "omit",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(unreachable || error.message, { code: "unreachable" });
  }
  if (response.ok) return response;
  throw errorOf(await response.text(), response);
}

function errorOf(content, response) {
  const retryAfter = Number(response.headers.get("retry-after") ?? 0);
  try {
    const { message, code } = JSON.parse(content).error;
    return new RequestError(message, { status: response.status, code, retryAfter });
  } catch { // a proxy's own page
    const { status } = response;
    const advice = status === 413 || status === 504 ? text(`proxy${status}`) : "";
    return new RequestError(text("proxy", status, advice), { status, retryAfter });
  }
}

/** The JSON objects of a stream of server-sent events, until [DONE]; throws RequestError where the service sends one. */
export async function* streamed(response, broken = "") {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new RequestError(broken || error.message, { code: "connection_lost" });
      });
      if (done) throw new RequestError(broken, { code: "connection_lost" });
      rest += value;
      if (rest.length > MAX_EVENT) throw new RequestError("An event of the stream is too large.");
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue; // a comment that keeps the connection open
        const chunk = JSON.parse(data);
        if (chunk.error) throw new RequestError(chunk.error.message, { code: chunk.error.code });
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it has ended, or the answer is no longer wanted
  }
}
