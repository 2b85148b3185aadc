import { type Client, createClient as create, createConfig } from "./generated/client/index.js";

export * from "./generated/index.js";
export type { Client };

/**
 * Create a client of a server, to pass to the functions of this package:
 * `conceptSegment({ client, body })`.
 *
 * Each function returns `{ data, error, response }`, with typed `data` or `error`. Without a response,
 * `error` is the error of `fetch`. With `throwOnError: true`, errors are thrown instead.
 *
 * @param url URL of the server, such as `http://127.0.0.1:9001`.
 * @param key API key, sent in the `x-api-key` header.
 */
export function createClient(url: string, key?: string): Client {
  const auth = ({ name }: { name?: string }) => (name === "x-api-key" ? key : undefined);
  return create(createConfig({ baseUrl: url, auth }));
}
