// The request of a turn as a program: curl, Python and JavaScript; pictures are read from their files.

import { SERVICE } from "./api.js";
import { chatBody, turnsSent } from "./conversation.js";

export const KINDS = { curl, Python: python, JavaScript: javascript };

/** The chat body of the turn without streaming, and the names of the files in it in their order. */
export async function requestOf(turns, index, options, model) {
  const body = await chatBody(turns, index, options);
  const names = turnsSent(turns, index).flatMap((turn) => turn.attachments).map(({ name, type }) => ({ name, type }));
  for (const field of ["stream", "stream_options", "logprobs"]) delete body[field];
  return { body: { model, ...body }, names };
}

/** The body as source text; `put` writes the expression for a file. */
function source(body, names, put, literal = (value) => JSON.stringify(value, null, 2)) {
  let next = 0;
  const mark = `@@${Math.random()}@`; // is in no text of the conversation
  const marked = JSON.parse(JSON.stringify(body), (key, value) =>
    ((key === "url" || key === "file_data") && typeof value === "string" && value.startsWith("data:") ? `${mark}${next++}` : value));
  return literal(marked).replace(new RegExp(`"${mark}(\\d+)"`, "g"), (_, index) => put(names[index]));
}

function curl({ body, names }) {
  const content = source(body, names, ({ name, type }) => `"data:${type};base64,'"$(base64 -w0 -- ${quoted(name)})"'"`,
    (value) => JSON.stringify(value, null, 2).replaceAll("'", "'\\''"));
  // On standard input: an argument may not be longer than 128 KiB.
  return `printf '%s' '${content}' | curl -s ${SERVICE}v1/chat/completions \\
  -H 'Content-Type: application/json' -H "Authorization: Bearer $GLM_KEY" -d @-`;
}

const quoted = (name) => `'${name.replaceAll("'", "'\\''")}'`;

function python({ body, names }) {
  const literal = (value) => JSON.stringify(value, null, 4)
    .replace(/("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g, (_, string, word) => string ?? { true: "True", false: "False", null: "None" }[word]);
  const content = source(body, names, ({ name, type }) => `data_url(${JSON.stringify(name)}, ${JSON.stringify(type)})`, literal);
  return `import base64
import os

from openai import OpenAI


def data_url(path, kind):
    with open(path, "rb") as file:
        return f"data:{kind};base64," + base64.b64encode(file.read()).decode()


client = OpenAI(base_url="${SERVICE}v1", api_key=os.environ.get("GLM_KEY", "unused"))
request = ${content}
extra = {name: request.pop(name) for name in ("chat_template_kwargs",) if name in request}
print(client.chat.completions.create(**request, extra_body=extra).choices[0].message.content)
`;
}

function javascript({ body, names }) {
  const content = source(body, names, ({ name, type }) => `await dataUrl(${JSON.stringify(name)}, ${JSON.stringify(type)})`);
  return `import { readFile } from "node:fs/promises";

const dataUrl = async (path, kind) => \`data:\${kind};base64,\${(await readFile(path)).toString("base64")}\`;
const request = ${content};
const response = await fetch("${SERVICE}v1/chat/completions", {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: \`Bearer \${process.env.GLM_KEY}\` },
  body: JSON.stringify(request),
});
const answer = await response.json();
console.log(answer.error?.message ?? answer.choices[0].message.content);
`;
}
