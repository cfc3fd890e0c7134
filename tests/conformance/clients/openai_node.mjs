// OpenAI's own JavaScript client: every call that the service answers.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { dataUrl, main, MODEL, refusal, TASK, faultyUrl, tooLargeUrl, URL_V1 } from "./harness.mjs";

const client = new OpenAI({ baseURL: URL_V1, apiKey: "unused", timeout: 120_000 });
const CHAT = { model: MODEL, temperature: 0, max_tokens: 64 };
const CALL = { ...CHAT, max_tokens: 200 };
const RESPONSE = { model: MODEL, temperature: 0, max_output_tokens: 64, store: false };

const Finding = z.object({
  verdict: z.enum(["pass", "fail"]),
  number: z.string().regex(/^[A-Z]{2}[0-9]{6}$/),
  stamped: z.boolean(),
});

const text = (content) => ({ type: "text", text: content });
const picture = (name, detail = "auto") => ({ type: "image_url", image_url: { url: dataUrl(name), detail } });
const user = (...content) => ({ role: "user", content });
const ASKED = user(picture("first"), text(TASK.question));
const TOOLS = TASK.tools.map((tool) => ({ type: "function", function: { ...tool, strict: true } }));
const callsOf = (message) =>
  (message.tool_calls ?? []).map((call) => ({
    id: call.id,
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments),
  }));
const chat = (body, options) => client.chat.completions.create(body, options);
const broken = () => user({ type: "image_url", image_url: { url: TASK.broken_url } }, text("?"));
const behind = (fault, options = {}) => new OpenAI({ baseURL: faultyUrl(fault), apiKey: "unused", ...options });
const answerBehind = async (fault) => {
  const reply = await behind(fault).chat.completions.create({ messages: [ASKED], ...CHAT });
  return { text: reply.choices[0].message.content };
};
const responseInput = (question) => [
  {
    role: "user",
    content: [
      { type: "input_image", image_url: dataUrl("first"), detail: "auto" },
      { type: "input_text", text: question },
    ],
  },
];

async function afterACall(result) {
  const first = await chat({
    messages: [ASKED], tools: TOOLS, tool_choice: "required", parallel_tool_calls: false, ...CALL,
  });
  const called = first.choices[0].message;
  const told = { role: "tool", tool_call_id: called.tool_calls[0].id, content: result };
  const reply = await chat({ messages: [ASKED, called, told], tools: TOOLS, ...CALL });
  return { finish: reply.choices[0].finish_reason, prompt_tokens: reply.usage.prompt_tokens };
}

await main({
  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { ids: listed, one: (await client.models.retrieve(MODEL)).id };
  },

  async picture_answer() {
    const reply = await chat({ messages: [ASKED], ...CHAT });
    const { message, finish_reason } = reply.choices[0];
    return {
      text: message.content,
      finish: finish_reason,
      reasoning: [message.reasoning_content ?? null, message.reasoning ?? null],
      usage: [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens],
      request_id: reply._request_id,
    };
  },

  async two_pictures() {
    const got = {};
    for (const [which, question] of Object.entries(TASK.which_questions)) {
      const asked = user(picture("first", "auto"), picture("second", "high"), text(question));
      got[which] = (await chat({ messages: [asked], ...CHAT })).choices[0].message.content;
    }
    return got;
  },

  async detail() {
    const tokens = {};
    for (const level of ["low", "auto", "high", "original"]) {
      const reply = await chat({ messages: [user(picture("first", level), text("?"))], ...CHAT });
      tokens[level] = reply.usage.prompt_tokens;
    }
    return tokens;
  },

  async follow_up() {
    const first = (await chat({ messages: [ASKED], ...CHAT })).choices[0].message;
    const messages = [{ role: "system", content: "Be brief." }, ASKED, first, user(text(TASK.follow_up))];
    return { text: (await chat({ messages, ...CHAT })).choices[0].message.content };
  },

  async stream() {
    const messages = [user(picture("first"), text(TASK.long_question))];
    const whole = await chat({ messages, ...CHAT });
    const pieces = [];
    let usage, finish;
    for await (const chunk of await chat({
      messages, stream: true, stream_options: { include_usage: true }, ...CHAT,
    })) {
      for (const choice of chunk.choices) {
        if (choice.delta.content) pieces.push(choice.delta.content);
        finish = choice.finish_reason ?? finish;
      }
      usage = chunk.usage ?? usage;
    }
    return {
      whole: whole.choices[0].message.content,
      pieces,
      finish,
      usage: [usage.prompt_tokens, usage.completion_tokens],
      whole_usage: [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    };
  },

  async at_once() {
    const replies = await Promise.all([1, 2, 3, 4].map(() => chat({ messages: [ASKED], ...CHAT })));
    return { texts: replies.map((reply) => reply.choices[0].message.content) };
  },

  wrong_model: () => refusal(() => chat({ ...CHAT, model: "gpt-9", messages: [ASKED] })),
  broken_picture: () => refusal(() => chat({ messages: [broken()], ...CHAT })),
  broken_picture_streamed: () => refusal(() => chat({ messages: [broken()], stream: true, ...CHAT })),
  too_large: () =>
    refusal(() => chat({ messages: [user({ type: "image_url", image_url: { url: tooLargeUrl() } })], ...CHAT })),
  rate_limited: () => answerBehind("rate_limited"),
  unavailable: () => answerBehind("unavailable"),
  overloaded: () => answerBehind("overloaded"),
  timed_out: () =>
    refusal(() =>
      behind("slow", { timeout: 500, maxRetries: 0 }).chat.completions.create({ messages: [ASKED], ...CHAT }),
    ),

  async tool_required() {
    const reply = await chat({
      messages: [ASKED], tools: TOOLS, tool_choice: "required", parallel_tool_calls: false, ...CALL,
    });
    return { calls: callsOf(reply.choices[0].message), finish: reply.choices[0].finish_reason };
  },

  async tool_named() {
    const choice = { type: "function", function: { name: TASK.tools[1].name } };
    const reply = await chat({ messages: [ASKED], tools: TOOLS, tool_choice: choice, ...CALL });
    return { calls: callsOf(reply.choices[0].message), finish: reply.choices[0].finish_reason };
  },

  async tool_forbidden() {
    const { message } = (await chat({ messages: [ASKED], tools: TOOLS, tool_choice: "none", ...CHAT })).choices[0];
    return { calls: callsOf(message), text: message.content };
  },

  // Put together by the client's own accumulator.
  async tool_streamed() {
    const events = client.chat.completions.stream({
      messages: [ASKED], tools: TOOLS, tool_choice: "required", ...CALL,
    });
    const pieces = [];
    events.on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
    const [choice] = (await events.finalChatCompletion()).choices;
    return { calls: callsOf(choice.message), pieces, finish: choice.finish_reason };
  },

  tool_result: () => afterACall(TASK.tool_result),
  tool_result_with_picture: () => afterACall([text(TASK.tool_result), picture("second")]),

  async schema() {
    const reply = await client.chat.completions.parse({
      messages: [ASKED], response_format: zodResponseFormat(Finding, "finding"), ...CHAT,
    });
    return { parsed: reply.choices[0].message.parsed, finish: reply.choices[0].finish_reason };
  },

  async schema_streamed() {
    const events = client.chat.completions.stream({
      messages: [ASKED], response_format: zodResponseFormat(Finding, "finding"), ...CHAT,
    });
    const pieces = [];
    events.on("content.delta", (event) => pieces.push(event.delta));
    const [choice] = (await events.finalChatCompletion()).choices;
    return { parsed: choice.message.parsed, pieces, finish: choice.finish_reason };
  },

  async json_object() {
    const reply = await chat({
      messages: [user(picture("first"), text(TASK.json_question))],
      response_format: { type: "json_object" },
      ...CHAT,
      max_tokens: 400,
    });
    return { parsed: JSON.parse(reply.choices[0].message.content), finish: reply.choices[0].finish_reason };
  },

  async several() {
    const reply = await chat({ ...CHAT, messages: [ASKED], n: 2, seed: 7, temperature: 1, max_tokens: 16 });
    return {
      indexes: reply.choices.map((choice) => choice.index),
      texts: reply.choices.map((choice) => choice.message.content),
      completion_tokens: reply.usage.completion_tokens,
    };
  },

  async several_streamed() {
    const texts = ["", ""];
    for await (const chunk of await chat({ ...CHAT, messages: [ASKED], n: 2, stream: true, max_tokens: 16 })) {
      for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
    }
    return { indexes: [0, 1], texts };
  },

  async logprobs() {
    const [choice] = (await chat({ messages: [ASKED], logprobs: true, top_logprobs: 3, ...CHAT })).choices;
    return {
      text: choice.message.content,
      bytes: choice.logprobs.content.map((token) => token.bytes),
      logprobs: choice.logprobs.content.map((token) => token.logprob),
      tops: choice.logprobs.content.map((token) => token.top_logprobs.map((top) => top.logprob)),
    };
  },

  async completion() {
    const asked = { model: MODEL, prompt: TASK.prompt, temperature: 0, max_tokens: 16 };
    const whole = await client.completions.create(asked);
    const pieces = [];
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      for (const choice of chunk.choices) pieces.push(choice.text);
    }
    return {
      text: whole.choices[0].text,
      pieces,
      finish: whole.choices[0].finish_reason,
      usage: [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    };
  },

  async response_text() {
    const reply = await client.responses.create({ input: "Hello", instructions: "Be brief.", ...RESPONSE });
    return { text: reply.output_text, status: reply.status };
  },

  async response_picture() {
    const reply = await client.responses.create({ input: responseInput(TASK.question), ...RESPONSE });
    return {
      text: reply.output_text,
      status: reply.status,
      usage: [reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens],
    };
  },

  // Put together by the client's own accumulator.
  async response_streamed() {
    const asked = { ...RESPONSE, input: responseInput(TASK.long_question), max_output_tokens: 400 };
    const whole = await client.responses.create(asked);
    const events = client.responses.stream(asked);
    const pieces = [];
    events.on("response.output_text.delta", (event) => pieces.push(event.delta));
    return { whole: whole.output_text, pieces, final: (await events.finalResponse()).output_text };
  },

  async response_schema() {
    const reply = await client.responses.parse({
      input: responseInput(TASK.question), text: { format: zodTextFormat(Finding, "finding") }, ...RESPONSE,
    });
    return { parsed: reply.output_parsed };
  },

  async response_tool() {
    const tools = TASK.tools.map((tool) => ({ type: "function", strict: true, ...tool }));
    const asked = { ...RESPONSE, max_output_tokens: 200, tools };
    const input = responseInput(TASK.question);
    const reply = await client.responses.create({
      input, tool_choice: "required", parallel_tool_calls: false, ...asked,
    });
    const called = reply.output.filter((item) => item.type === "function_call");
    const told = { type: "function_call_output", call_id: called[0].call_id, output: TASK.tool_result };
    const final = await client.responses.create({ input: [...input, ...reply.output, told], ...asked });
    return {
      calls: called.map((call) => ({ id: call.call_id, name: call.name, arguments: JSON.parse(call.arguments) })),
      text: final.output_text,
    };
  },
});
