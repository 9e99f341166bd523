// OpenAI's client for Node, as its documentation uses it.
import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { PERSON, QUESTION, WEATHER, check, key, model, tryAll, url } from "./report.mjs";

const client = new OpenAI({ baseURL: url, apiKey: key });
const user = (content) => [{ role: "user", content }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Oslo", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters, strict: true } }];
// One call: so small a model finds no end of several.
const required = {
  model, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 200,
};

await tryAll({
  async chat() {
    const answer = await client.chat.completions.create({
      model, messages: user(QUESTION), max_tokens: 40,
    });
    check(answer.choices[0].message.content, "answer");
  },
  async stream() {
    const events = await client.chat.completions.create({
      model, messages: user(QUESTION), max_tokens: 40, stream: true,
      stream_options: { include_usage: true },
    });
    let text = "", usage;
    for await (const event of events) {
      text += event.choices[0]?.delta.content ?? "";
      usage = event.usage ?? usage;
    }
    check(text, "text");
    check(usage?.completion_tokens, "usage");
  },
  async "several answers"() {
    const answer = await client.chat.completions.create({
      model, messages: user(QUESTION), max_tokens: 8, n: 4,
    });
    check(answer.choices.length === 4, "four choices");
  },
  async "log probabilities"() {
    const answer = await client.chat.completions.create({
      model, messages: user(QUESTION), max_tokens: 8, logprobs: true, top_logprobs: 3,
    });
    check(answer.choices[0].logprobs.content[0].top_logprobs.length === 3, "log probabilities");
  },
  async "JSON schema"() {
    const person = z.object({ name: z.string().max(40), age: z.number().int().min(0).max(150) });
    const answer = await client.chat.completions.parse({
      model, messages: user(PERSON), max_tokens: 200, temperature: 0,
      response_format: zodResponseFormat(person, "person"),
    });
    check(person.safeParse(answer.choices[0].message.parsed).success, "person");
  },
  async "tool call"() {
    const answer = await client.chat.completions.create({ ...required, messages: user(WEATHER) });
    const [call] = answer.choices[0].message.tool_calls;
    check(["Oslo", "Rome"].includes(JSON.parse(call.function.arguments).city), "city");
  },
  async "tool loop"() {
    const messages = user(WEATHER);
    const first = await client.chat.completions.create({ ...required, messages });
    messages.push(first.choices[0].message);
    for (const call of first.choices[0].message.tool_calls) {
      messages.push({ role: "tool", tool_call_id: call.id, content: '{"weather": "rain"}' });
    }
    const last = await client.chat.completions.create({
      model, messages, tools, tool_choice: "none", max_tokens: 60,
    });
    check(last.choices[0].message.content, "answer");
  },
  async "streamed tool call"() {
    const stream = client.chat.completions.stream({ ...required, messages: user(WEATHER) });
    const { choices } = await stream.finalChatCompletion();
    const [call] = choices[0].message.tool_calls;
    check(["Oslo", "Rome"].includes(JSON.parse(call.function.arguments).city), "city");
  },
  async "batch job"() {
    const body = { model, messages: user(QUESTION), max_tokens: 8 };
    const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body };
    const file = await client.files.create({
      file: await toFile(Buffer.from(JSON.stringify(line)), "lines.jsonl"), purpose: "batch",
    });
    let job = await client.batches.create({
      input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
    });
    while (!["completed", "failed", "expired", "cancelled"].includes(job.status)) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      job = await client.batches.retrieve(job.id);
    }
    check(job.status === "completed", "completed job");
    const written = await client.files.content(job.output_file_id);
    check((await written.text()).includes("chat.completion"), "output");
  },
});
