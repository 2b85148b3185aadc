import createFetchClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { components, operations, paths } from "./schema.js";

/** The types of requests and answers, by their names in the OpenAPI document. */
export type Schemas = components["schemas"];

/** Calls by method and path, such as `client.POST("/sam3/concept_segment", { body })`. */
export type InferenceClient = Client<paths, "application/json">;

/**
 * A client of one server.
 *
 * Each call gives `{ data, error, response }`, with `data` or `error` typed by the path. Answers are
 * read as JSON: where the answer is a picture or another file, say `parseAs: "blob"`.
 *
 * @param url Where the server is, such as `http://127.0.0.1:9001`.
 * @param key The API key; it is sent as a header.
 */
export function createClient(url: string, key?: string): InferenceClient {
  return createFetchClient<paths, "application/json">({
    baseUrl: url,
    headers: key === undefined ? {} : { "x-api-key": key },
    bodySerializer: serialized,
  });
}

/** JSON, or a form where there is a file among the fields. */
function serialized(body: unknown): string | FormData {
  const fields = Object.entries(body as Record<string, unknown>);
  if (!fields.some(([, value]) => value instanceof Blob)) return JSON.stringify(body);
  const form = new FormData();
  for (const [name, value] of fields) {
    if (value instanceof Blob) form.append(name, value);
    else if (value !== undefined && value !== null) {
      form.append(name, typeof value === "string" ? value : JSON.stringify(value));
    }
  }
  return form;
}
