// What the JavaScript clients' scripts share: harness.py in the other language.
import { readFileSync } from "node:fs";

export const TASK = JSON.parse(readFileSync(0, "utf8"));
export const MODEL = TASK.model;
export const URL_V1 = `${TASK.base_url}/v1`;

// The service's address behind a proxy with this fault (see ../fault_proxy.py).
export const faultyUrl = (fault) => `${TASK.fault_proxy}/${fault}/${TASK.client}/v1`;

export const pictureBytes = (name) => readFileSync(TASK.pictures[name]);
export const dataUrl = (name) => `data:image/jpeg;base64,${pictureBytes(name).toString("base64")}`;
export const tooLargeUrl = () => `data:image/jpeg;base64,${"A".repeat(TASK.too_large_bytes)}`;

// The exception that a client raises for what the service refuses.
export async function refusal(call) {
  try {
    const answer = await call();
    return { answer: String(JSON.stringify(answer)).slice(0, 500) };
  } catch (error) {
    return {
      error: error.constructor.name,
      parents: [error.name],
      status: error.status ?? error.statusCode ?? null,
      code: error.code ?? error.data?.error?.code ?? null,
      message: String(error.message).slice(0, 2000),
    };
  }
}

export async function main(checks) {
  const got = {};
  const wanted = TASK.only.length ? TASK.only : Object.keys(checks).filter((name) => !TASK.without.includes(name));
  for (const name of wanted) {
    try {
      got[name] = await checks[name]();
    } catch (error) {
      process.stderr.write(`${name}: ${error.stack}\n`);
      got[name] = { raised: `${error.constructor.name}: ${error.message}`.slice(0, 2000) };
    }
  }
  process.stdout.write(`\n${JSON.stringify(got)}\n`);
}
