// Asks a running server through OpenAI's own client; prints what came back as one line of JSON.
// Arguments: base URL, model, path of a recording.
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, model, recording] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const audio = { data: fs.readFileSync(recording).toString("base64"), format: "flac" };
const content = [
  { type: "input_audio", input_audio: audio },
  { type: "text", text: "Transcribe the audio." },
];
const asked = { model, messages: [{ role: "user", content }] };

const models = [];
for await (const card of client.models.list()) models.push(card.id);

const answer = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 1 });

let streamed = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({
  ...asked,
  stream: true,
  stream_options: { include_usage: true },
})) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const transcribed = await client.audio.transcriptions.create({ model, file: fs.createReadStream(recording) });

let deltas = "";
for await (const event of await client.audio.transcriptions.create({
  model,
  file: fs.createReadStream(recording),
  stream: true,
})) {
  if (event.type === "transcript.text.delta") deltas += event.delta;
}

const refused = await client.chat.completions.create({ ...asked, n: 2 }).catch((error) => error);

console.log(
  JSON.stringify({
    models,
    text: answer.choices[0].message.content,
    finish: answer.choices[0].finish_reason,
    tokens: answer.choices[0].logprobs.content.map((token) => token.token).join(""),
    usage: answer.usage,
    streamed,
    streamedUsage: usage,
    transcribed: transcribed.text,
    deltas,
    refused: { kind: refused.constructor.name, status: refused.status, param: refused.param, code: refused.code },
  }),
);
