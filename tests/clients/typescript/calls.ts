// Calls of every kind, as a user of the client writes them; what came back is printed as JSON.

import { readFile } from "node:fs/promises";
import {
  conceptSegment,
  createClient,
  embedImageSam3,
  type InferenceRequestImage,
  type JobStatus,
  jobFile,
  jobResult,
  jobStatus,
  listModels,
  readyz,
  sam3Image,
  type SegmentationPrediction,
  segmentPredict,
  segmentText,
  spaceSegment,
  submitConceptSegment,
  submitSam3Image,
  visualSegment,
} from "inference-server-client";

interface Input {
  url: string;
  key: string;
  image: string; // a file in base64
  raster: string; // a GeoTIFF in base64
  click: { x: number; y: number };
  box: { x: number; y: number; width: number; height: number };
  corners: [number, number, number, number];
}

const input: Input = JSON.parse(await readFile(process.argv[2]!, "utf8"));
const { url, key } = input;
const client = createClient(url, key);
const image: InferenceRequestImage = { type: "base64", value: input.image };
const points = [{ ...input.click, positive: true }];

async function base64(data: unknown): Promise<string> {
  if (!(data instanceof Blob)) throw new Error(`No file: ${JSON.stringify(data)}`);
  return Buffer.from(await data.arrayBuffer()).toString("base64");
}

async function concept() {
  const prompts = [{ type: "text" as const, text: "red circle" }, { text: "green star" }];
  const { data, request, response } = await conceptSegment({
    client,
    body: { image, prompts, format: "rle" },
    throwOnError: true,
  });
  // The types say what there is: these would not compile otherwise.
  const texts: (string | undefined)[] = data.prompt_results.map((result) => result.echo.text);
  const found: SegmentationPrediction[][] = data.prompt_results.map((r) => r.predictions);
  return { texts, found, url: response.url, headers: [...request.headers.keys()] };
}

async function visual() {
  const body = { image, prompts: [{ points }, { box: input.box }] };
  const { data } = await visualSegment({ client, body, throwOnError: true });
  if (data instanceof Blob) throw new Error("Not asked for in binary form.");
  const binary = await visualSegment({ client, body: { ...body, format: "binary" } });
  return { predictions: data.predictions, binary: await base64(binary.data) };
}

async function byId() {
  const body = { image, image_id: "from TypeScript" };
  const { data: named } = await embedImageSam3({ client, body, throwOnError: true });
  const { data, response } = await visualSegment({
    client,
    body: { image_id: named.image_id, prompts: { prompts: [{ points }] } },
    throwOnError: true,
  });
  const predictions = "predictions" in data ? data.predictions : [];
  return { predictions, cache: response.headers.get("x-embedding-cache") };
}

async function uploads() {
  const file = new File([Buffer.from(input.raster, "base64")], "image.tif", { type: "image/tiff" });
  const text = await segmentText({
    client,
    body: { file, prompt: "red circle", output_format: "json" },
    throwOnError: true,
  });
  // One path answers in several forms: the fields tell which.
  const boxes = "detections" in text.data ? text.data.detections.map((item) => item.bbox) : [];
  const raster = await segmentPredict({
    client,
    body: {
      file,
      model_version: "sam2",
      boxes: JSON.stringify([input.corners]),
      multimask_output: false,
      output_format: "png",
    },
    throwOnError: true,
  });
  return { boxes, raster: await base64(raster.data) };
}

async function pictures() {
  const body = { image: input.image, text_prompt: "red circle" };
  const preview = await sam3Image({ client, body, throwOnError: true });
  const several = await sam3Image({ client, body: { ...body, return_masks: true } });
  const masks = several.data && "masks" in several.data ? several.data.masks : [];
  return { preview: await base64(preview.data), masks };
}

async function space() {
  const body = { inputs: { image: input.image, text_prompts: ["red circle"] } };
  return (await spaceSegment({ client, body, throwOnError: true })).data.masks;
}

async function finished(request_id: string): Promise<JobStatus["status"]> {
  for (;;) {
    const { data } = await jobStatus({ client, path: { request_id }, throwOnError: true });
    if (data.status === "COMPLETED") return data.status;
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

async function jobs() {
  const body = { image, prompts: [{ text: "red circle" }], format: "rle" as const };
  const { data: job } = await submitConceptSegment({ client, body, throwOnError: true });
  const status = await finished(job.request_id);
  const concepts = await jobResult({ client, path: { request_id: job.request_id }, throwOnError: true });

  const { data: other } = await submitSam3Image({
    client,
    body: { image: input.image, text_prompt: "red circle" },
    throwOnError: true,
  });
  await finished(other.request_id);
  const { data } = await jobResult({ client, path: { request_id: other.request_id }, throwOnError: true });
  const [made] = data.images ?? [];
  if (!made) throw new Error("No picture.");
  const link = new URL(made.url);
  const file = await jobFile({
    client: createClient(url), // the link is enough
    path: { request_id: other.request_id, name: made.file_name },
    query: {
      expires: link.searchParams.get("expires")!,
      signature: link.searchParams.get("signature")!,
    },
  });
  return { status, output: concepts.data.output, file: await base64(file.data) };
}

async function errors() {
  const invalid = await visualSegment({ client, body: {} });
  const wrong = await listModels({ client: createClient(url, "wrong") });
  const none = await listModels({ client: createClient(url) });
  const unreadable = await sam3Image({ client, body: { image: "AAAA", text_prompt: "cat" } });
  const thrown: unknown = await visualSegment({ client, body: {}, throwOnError: true }).catch(
    (error: unknown) => error,
  );
  const { error } = invalid;
  return {
    loc: error && "detail" in error ? error.detail[0]?.loc : undefined,
    statuses: [invalid, wrong, none, unreadable].map(({ response }) => response?.status),
    message: wrong.error && "message" in wrong.error ? wrong.error.message : undefined,
    error: unreadable.error?.error,
    thrown,
  };
}

async function system() {
  const { data: known } = await listModels({ client, throwOnError: true });
  return { ready: (await readyz({ client })).data?.status, checkpoints: known.checkpoints };
}

console.log(
  JSON.stringify({
    concept: await concept(),
    visual: await visual(),
    by_id: await byId(),
    uploads: await uploads(),
    pictures: await pictures(),
    space: await space(),
    jobs: await jobs(),
    errors: await errors(),
    system: await system(),
  }),
);
