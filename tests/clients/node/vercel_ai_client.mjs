// Vercel's AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { PERSON, QUESTION, WEATHER, check, key, model, tryAll, url } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "lmaas", baseURL: url, apiKey: key, supportsStructuredOutputs: true, includeUsage: true,
});
const common = { model: provider(model), maxOutputTokens: 200, temperature: 0, maxRetries: 0 };
// One call: so small a model finds no end of several, and no tool runs where an answer is cut off.
const oneCall = { providerOptions: { lmaas: { parallel_tool_calls: false } } };
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]) }),
  execute: async ({ city }) => `rain in ${city}`,
});

await tryAll({
  async chat() {
    check((await generateText({ ...common, prompt: QUESTION })).text, "text");
  },
  async stream() {
    let text = "";
    for await (const part of streamText({ ...common, prompt: QUESTION }).textStream) text += part;
    check(text, "text");
  },
  async "JSON schema"() {
    const schema = z.object({ name: z.string().max(40), age: z.number().int().min(0).max(150) });
    const { object } = await generateObject({ ...common, schema, prompt: PERSON });
    check(schema.safeParse(object).success, "person");
  },
  async "tool call"() {
    const { toolCalls } = await generateText({
      ...common, ...oneCall, tools: { weather }, toolChoice: "required", prompt: WEATHER,
    });
    check(toolCalls[0].toolName === "weather", "call");
  },
  async "tool loop"() {
    const { steps } = await generateText({
      ...common, ...oneCall, tools: { weather }, prompt: WEATHER, stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
    });
    check(steps[0].toolResults.length, "result");
    check(steps[1].text, "answer");
  },
  async "streamed tool call"() {
    const answer = streamText({
      ...common, ...oneCall, tools: { weather }, toolChoice: "required", prompt: WEATHER,
    });
    check((await answer.toolCalls)[0].toolName === "weather", "call");
  },
});
