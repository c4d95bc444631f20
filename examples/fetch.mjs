// The API with plain fetch, in node 18 or later or in a browser.   node examples/fetch.mjs [address [folder]]
import { writeFile } from "node:fs/promises";

const server = process.argv[2] ?? "http://127.0.0.1:7860";
const folder = process.argv[3] ?? ".";
const key = process.env.SDSPOOL_KEY;

async function ask(path, options = {}) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...options.headers };
  const answer = await fetch(server + path, { ...options, headers });
  if (answer.ok) return answer;
  const { error } = await answer.json();
  throw new Error(`${answer.status} ${error.code}: ${error.message}`);
}

async function submit(job) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() };
  return (await ask("/api/v1/jobs", { method: "POST", headers, body: JSON.stringify(job) })).json();
}

// Server-sent events: `event: job` with the whole report at each change, and the stream ends with the job.
async function* events(id) {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of (await ask(`/api/v1/jobs/${id}/events`)).body) {
    text += decoder.decode(chunk, { stream: true });
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

const { id } = await submit({ prompt: "a large red circle on a blue background", seed: 5 });
let job;
for await (job of events(id)) console.log(job.status, job.progress?.fraction_done ?? "");

for (const image of job.images) {
  const picture = await (await ask(image.url)).arrayBuffer();
  const path = `${folder}/${id}-${image.file}`;
  await writeFile(path, Buffer.from(picture));
  console.log(path);
}

try {
  await submit({ prompt: "x", steps: 1000 });
} catch (error) {
  console.log(error.message);
}
