// Vercel's AI SDK with its provider for OpenAI-compatible services, and OpenAI's own provider, which asks /v1/responses.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import { z } from "zod";
import { dataUrl, main, MODEL, pictureBytes, refusal, TASK, faultyUrl, tooLargeUrl, URL_V1 } from "./harness.mjs";

const provider = (baseURL) =>
  createOpenAICompatible({
    name: "glm",
    baseURL,
    apiKey: "unused",
    includeUsage: true,
    supportsStructuredOutputs: true,
    supportsMultiPartToolContent: true,
  });
const model = provider(URL_V1)(MODEL);
const CHAT = { model, temperature: 0, maxOutputTokens: 64 };
const CALL = { ...CHAT, maxOutputTokens: 200 };

const responses = createOpenAI({ baseURL: URL_V1, apiKey: "unused" }).responses(MODEL);

const Finding = z.object({
  verdict: z.enum(["pass", "fail"]),
  number: z.string().regex(/^[A-Z]{2}[0-9]{6}$/),
  stamped: z.boolean(),
});

const text = (content) => ({ type: "text", text: content });
const picture = (name) => ({ type: "file", mediaType: "image/jpeg", data: pictureBytes(name) });
const user = (...content) => ({ role: "user", content });
const ASKED = user(picture("first"), text(TASK.question));
const tools = (extra = {}) =>
  Object.fromEntries(
    TASK.tools.map(({ name, description, parameters }) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters), strict: true, ...extra }),
    ]),
  );
const callsOf = (result) =>
  result.toolCalls.map((call) => ({ id: call.toolCallId, name: call.toolName, arguments: call.input }));
const answerBehind = async (fault) => {
  const { text } = await generateText({ ...CHAT, model: provider(faultyUrl(fault))(MODEL), messages: [ASKED] });
  return { text };
};

// Two steps: a call that has to be made, then the answer with what the tool gave back.
async function afterACall(extra, model = CALL.model) {
  const result = await generateText({
    ...CALL,
    model,
    messages: [ASKED],
    tools: tools({ execute: async () => TASK.tool_result, ...extra }),
    stopWhen: isStepCount(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
  });
  return { finish: result.finishReason, prompt_tokens: result.steps[1].usage.inputTokens };
}

await main({
  async picture_answer() {
    const result = await generateText({ ...CHAT, messages: [ASKED] });
    const { inputTokens, outputTokens, totalTokens } = result.usage;
    return {
      text: result.text,
      finish: result.finishReason,
      reasoning: [result.reasoningText ?? null],
      usage: [inputTokens, outputTokens, totalTokens],
    };
  },

  async two_pictures() {
    const got = {};
    for (const [which, question] of Object.entries(TASK.which_questions)) {
      const asked = user(picture("first"), picture("second"), text(question));
      got[which] = (await generateText({ ...CHAT, messages: [asked] })).text;
    }
    return got;
  },

  async follow_up() {
    const first = await generateText({ ...CHAT, messages: [ASKED] });
    const messages = [ASKED, ...first.response.messages, user(text(TASK.follow_up))];
    return { text: (await generateText({ ...CHAT, system: "Be brief.", messages })).text };
  },

  async stream() {
    const messages = [user(picture("first"), text(TASK.long_question))];
    const whole = await generateText({ ...CHAT, messages });
    const result = streamText({ ...CHAT, messages });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    const usage = await result.usage;
    return {
      whole: whole.text,
      pieces,
      finish: await result.finishReason,
      usage: [usage.inputTokens, usage.outputTokens],
      whole_usage: [whole.usage.inputTokens, whole.usage.outputTokens],
    };
  },

  wrong_model: () =>
    refusal(() => generateText({ ...CHAT, model: provider(URL_V1)("gpt-9"), messages: [ASKED] })),
  broken_picture: () =>
    refusal(() =>
      generateText({
        ...CHAT,
        messages: [user({ type: "file", mediaType: "image/png", data: TASK.broken_url.split(",")[1] }, text("?"))],
      }),
    ),
  async broken_picture_streamed() {
    let seen = null;
    const data = TASK.broken_url.split(",")[1];
    const result = streamText({
      ...CHAT,
      messages: [user({ type: "file", mediaType: "image/png", data }, text("?"))],
      onError: ({ error }) => (seen = error),
    });
    for await (const _ of result.textStream);
    return refusal(() => {
      if (seen) throw seen;
      return result.text;
    });
  },
  too_large: () =>
    refusal(() =>
      generateText({
        ...CHAT,
        messages: [user({ type: "file", mediaType: "image/jpeg", data: tooLargeUrl().split(",")[1] })],
      }),
    ),
  rate_limited: () => answerBehind("rate_limited"),
  unavailable: () => answerBehind("unavailable"),
  overloaded: () => answerBehind("overloaded"),
  timed_out: () =>
    refusal(() =>
      generateText({
        ...CHAT,
        model: provider(faultyUrl("slow"))(MODEL),
        messages: [ASKED],
        maxRetries: 0,
        abortSignal: AbortSignal.timeout(500),
      }),
    ),

  async tool_required() {
    const result = await generateText({ ...CALL, messages: [ASKED], tools: tools(), toolChoice: "required" });
    return { calls: callsOf(result), finish: result.finishReason };
  },

  async tool_named() {
    const toolName = TASK.tools[1].name;
    const result = await generateText({
      ...CALL, messages: [ASKED], tools: tools(), toolChoice: { type: "tool", toolName },
    });
    return { calls: callsOf(result), finish: result.finishReason };
  },

  async tool_forbidden() {
    const result = await generateText({ ...CHAT, messages: [ASKED], tools: tools(), toolChoice: "none" });
    return { calls: callsOf(result), text: result.text };
  },

  async tool_streamed() {
    const result = streamText({ ...CALL, messages: [ASKED], tools: tools(), toolChoice: "required" });
    const pieces = [];
    for await (const part of result.fullStream) if (part.type === "tool-input-delta") pieces.push(part.delta);
    return { calls: callsOf({ toolCalls: await result.toolCalls }), pieces, finish: await result.finishReason };
  },

  tool_result: () => afterACall({}),
  tool_result_with_picture() {
    const data = { type: "data", data: pictureBytes("second").toString("base64") };
    const shown = { type: "file", mediaType: "image/jpeg", data };
    return afterACall({ toModelOutput: () => ({ type: "content", value: [text(TASK.tool_result), shown] }) });
  },

  // The answer is sent back by its id alone where the provider's `store` is not false.
  async response_turns() {
    const texts = {};
    for (const [kept, store] of [["stored", undefined], ["sent", false]]) {
      const asked = { ...CHAT, model: responses, providerOptions: { openai: { store } } };
      const first = await generateText({ ...asked, messages: [ASKED] });
      const messages = [ASKED, ...first.response.messages, user(text(TASK.follow_up))];
      texts[kept] = [first.text, (await generateText({ ...asked, messages })).text];
    }
    return texts;
  },
  response_tool_result: () => afterACall({}, responses),
  async response_reasoning() {
    const openai = { forceReasoning: true, reasoningEffort: "low", reasoningSummary: "auto" };
    const asked = { model: responses, maxOutputTokens: 200, providerOptions: { openai } };
    const first = await generateText({ ...asked, messages: [user(text(TASK.prompt))] });
    const streamed = streamText({ ...asked, messages: [user(text(TASK.prompt))] });
    await streamed.consumeStream();
    const messages = [user(text(TASK.prompt)), ...first.response.messages, user(text(TASK.prompt))];
    const second = await generateText({ ...asked, messages });
    return { reasoning: first.reasoningText, streamed: await streamed.reasoningText, second: second.text };
  },

  async schema() {
    const result = await generateText({ ...CHAT, messages: [ASKED], output: Output.object({ schema: Finding }) });
    return { parsed: result.output, finish: result.finishReason };
  },

  async schema_streamed() {
    const result = streamText({ ...CHAT, messages: [ASKED], output: Output.object({ schema: Finding }) });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    return { parsed: await result.output, pieces, finish: await result.finishReason };
  },

  async json_object() {
    const result = await generateText({
      ...CHAT,
      maxOutputTokens: 400,
      messages: [user(picture("first"), text(TASK.json_question))],
      output: Output.json(),
    });
    return { parsed: result.output, finish: result.finishReason };
  },

  async completion() {
    const asked = { ...CHAT, model: provider(URL_V1).completionModel(MODEL), maxOutputTokens: 16, prompt: TASK.prompt };
    const whole = await generateText(asked);
    const pieces = [];
    for await (const piece of streamText(asked).textStream) pieces.push(piece);
    return {
      text: whole.text,
      pieces,
      finish: whole.finishReason,
      usage: [whole.usage.inputTokens, whole.usage.outputTokens],
    };
  },
});
