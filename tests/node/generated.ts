// Asks a running server through openapi-fetch, with the types made from its own OpenAPI document; prints what came back
// as one line of JSON. Arguments: base URL, path of a recording.
import fs from "node:fs";
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const [baseUrl, recording] = process.argv.slice(2);
const client = createClient<paths, "application/json" | "application/problem+json">({ baseUrl });
const clip = new File([fs.readFileSync(recording)], "clip.flac");

function form(body: object): FormData {
  const data = new FormData();
  for (const [name, value] of Object.entries(body)) {
    for (const one of Array.isArray(value) ? value : [value]) data.append(name, one instanceof Blob ? one : String(one));
  }
  return data;
}

const answer = await client.POST("/generate", {
  body: { audio: [clip], prompt: "Transcribe the audio.", adapter: "base" },
  bodySerializer: form,
});
const transcribed = await client.POST("/v1/audio/transcriptions", {
  body: { file: clip, model: "base" },
  bodySerializer: form,
});
const chat = await client.POST("/v1/chat/completions", {
  body: { model: "base", messages: [{ role: "user", content: "Say hello." }], max_tokens: 4, stop: "never" },
});
const adapter = await client.GET("/adapters/{name}", { params: { path: { name: "nato" } } });
const refused = await client.POST("/generate", { body: { audio: [clip], adapter: "natto" }, bodySerializer: form });

console.log(
  JSON.stringify({
    text: answer.data?.text,
    container: answer.data?.audio[0].container,
    transcribed: transcribed.data?.text,
    tokens: chat.data?.usage.completion_tokens,
    adapter: adapter.data?.name,
    refused: refused.error?.code,
  }),
);
