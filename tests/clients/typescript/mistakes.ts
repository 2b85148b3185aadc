// A line that ends in the number of a TypeScript error has this error, and no other line has one.

import {
  conceptSegment,
  createClient,
  jobResult,
  type Sam3Prompt,
  sam3Image,
  segmentText,
  visualSegment,
} from "inference-server-client";

const client = createClient("http://127.0.0.1:9001", "my-key");
const file = new Blob();
const prompts: Sam3Prompt[] = [{ text: "cat" }];

await conceptSegment({ client, body: { prompts } });
await conceptSegment({ client, body: { prompts, format: "png" } }); // 2322
await conceptSegment({ client, body: { prompts, threshold: 0.5 } }); // 2353
await conceptSegment({ client, body: { prompts, output_prob_thresh: "0.5" } }); // 2322
await conceptSegment({ client, body: { prompts: [{ txt: "cat" }] } }); // 2561
await conceptSegment({ client, body: {} }); // 2741
await conceptSegment({ client }); // 2345
createClient(9001); // 2345

await visualSegment({ client, body: { prompts: [{ points: [{ x: 1, y: 2, positive: true }] }] } });
await visualSegment({ client, body: { prompts: [{ points: [{ x: "1", y: 2 }] }] } }); // 2322

await segmentText({ client, body: { file, prompt: "cat" } });
await segmentText({ client, body: { file: "cat.png", prompt: "cat" } }); // 2322
await segmentText({ client, body: { prompt: "cat" } }); // 2741

await jobResult({ client, path: { request_id: "1" } });
await jobResult({ client, path: { id: "1" } }); // 2353

const { data, error } = await conceptSegment({ client, body: { prompts } });
console.log(data.prompt_results); // 18048
if (data) {
  console.log(data.prompt_results.map((result) => result.predictions.map((it) => it.confidence)));
  console.log(data.prompt_results.map((result) => result.predictions.map((it) => it.score))); // 2339
} else {
  if ("detail" in error) console.log(error.detail[0]?.loc);
  console.log(error.message); // 2339
}

const picture = await sam3Image({ client, body: { image: "", text_prompt: "cat" } });
if (picture.data instanceof Blob) console.log(picture.data.size, picture.data.masks); // 2339
else console.log(picture.data?.masks, picture.error?.error);
