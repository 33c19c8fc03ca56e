// Published JavaScript clients, unmodified, against a running service: pictures, streams, structured text, tools. See README.md.
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { tool as langchainTool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, streamObject, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const BASE = `${process.argv[2].replace(/\/$/, "")}/v1`;
const picture = readFileSync(new URL("circle.png", import.meta.url));
const url = `data:image/png;base64,${picture.toString("base64")}`;
const [words, right] = ["Describe the picture.", "A large red circle in the centre."];
const parts = [{ type: "image_url", image_url: { url } }, { type: "text", text: words }];
const ask = { model: "qwen-vl", messages: [{ role: "user", content: parts }], temperature: 0, max_tokens: 400 };
const Shape = z.object({ colour: z.enum(["red", "green", "blue"]), round: z.boolean() });
const shape = { type: "function", function: { name: "shape", parameters: z.toJSONSchema(Shape) } };
const byName = { type: "function", function: { name: "shape" } };
const isShape = (found) => Shape.safeParse(typeof found === "string" ? JSON.parse(found) : found).success;

const openai = new OpenAI({ baseURL: BASE, apiKey: "EMPTY", maxRetries: 0 });
const langchain = new ChatOpenAI({ model: "qwen-vl", apiKey: "EMPTY", temperature: 0, maxRetries: 0, configuration: { baseURL: BASE } });
const turn = [new HumanMessage({ content: parts })];
const painter = langchainTool(() => "", { name: "shape", description: "Paint.", schema: Shape });
const provider = createOpenAICompatible({ name: "sightline", baseURL: BASE, apiKey: "EMPTY", supportsStructuredOutputs: true });
const vercel = { model: provider("qwen-vl"), temperature: 0, maxRetries: 0 };
const theirs = createOpenAI({ baseURL: BASE, apiKey: "EMPTY" });
const messages = [{ role: "user", content: [{ type: "image", image: picture }, { type: "text", text: words }] }];
const tools = { shape: tool({ description: "Paint.", inputSchema: Shape }) };

async function joined(pieces, text) {
  let said = "";
  for await (const piece of pieces) said += text(piece) ?? "";
  return said;
}

const trials = {
  "openai: picture": async () => (await openai.chat.completions.create(ask)).choices[0].message.content === right,
  "openai: stream": async () =>
    (await joined(await openai.chat.completions.create({ ...ask, stream: true }), (chunk) => chunk.choices[0]?.delta.content)) === right,
  "openai: parse": async () =>
    isShape((await openai.chat.completions.parse({ ...ask, response_format: zodResponseFormat(Shape, "shape") })).choices[0].message.parsed),
  "openai: tool by name": async () =>
    isShape((await openai.chat.completions.create({ ...ask, tools: [shape], tool_choice: byName })).choices[0].message.tool_calls[0].function.arguments),
  "openai: tool required, stream": async () => {
    const stream = openai.chat.completions.stream({ ...ask, tools: [shape], tool_choice: "required" });
    return isShape((await stream.finalChatCompletion()).choices[0].message.tool_calls[0].function.arguments);
  },
  "openai: response": async () => {
    const content = [{ type: "input_image", image_url: url }, { type: "input_text", text: words }];
    return (await openai.responses.create({ model: "qwen-vl", input: [{ role: "user", content }], temperature: 0 })).output_text === right;
  },
  "LangChain: picture": async () => (await langchain.invoke(turn)).content === right,
  "LangChain: stream": async () => (await joined(await langchain.stream(turn), (piece) => piece.content)) === right,
  "LangChain: structured": async () => isShape(await langchain.withStructuredOutput(Shape).invoke(turn)),
  "LangChain: structured by a call": async () =>
    isShape(await langchain.withStructuredOutput(Shape, { method: "functionCalling" }).invoke(turn)),
  "LangChain: any tool": async () =>
    isShape((await langchain.bindTools([painter], { tool_choice: "any" }).invoke(turn)).tool_calls[0].args),
  "Vercel: picture": async () => (await generateText({ ...vercel, messages })).text === right,
  "Vercel: stream": async () => (await joined(streamText({ ...vercel, messages }).textStream, (piece) => piece)) === right,
  "Vercel: object": async () => isShape((await generateObject({ ...vercel, messages, schema: Shape })).object),
  "Vercel: object, stream": async () => {
    let last;
    for await (const partial of streamObject({ ...vercel, messages, schema: Shape }).partialObjectStream) last = partial;
    return isShape(last);
  },
  "Vercel: tool required": async () =>
    isShape((await generateText({ ...vercel, messages, tools, toolChoice: "required" })).toolCalls[0].input),
  "Vercel: tool by name, stream": async () =>
    isShape((await streamText({ ...vercel, messages, tools, toolChoice: { type: "tool", toolName: "shape" } }).toolCalls)[0].input),
  "Vercel: its OpenAI provider, chat": async () =>
    (await generateText({ ...vercel, model: theirs.chat("qwen-vl"), messages })).text === right,
  "Vercel: its OpenAI provider, response": async () =>
    (await generateText({ ...vercel, model: theirs.responses("qwen-vl"), messages })).text === right,
  "Vercel: its OpenAI provider, response, object": async () =>
    isShape((await generateObject({ ...vercel, model: theirs.responses("qwen-vl"), messages, schema: Shape })).object),
};

let wrong = 0;
for (const [name, trial] of Object.entries(trials)) {
  let why = "";
  try {
    if (!(await trial())) why = "another answer";
  } catch (error) {
    why = String(error).slice(0, 300);
  }
  wrong += why ? 1 : 0;
  console.log(why ? "wrong" : "right", name, why);
}
process.exit(wrong ? 1 : 0);
