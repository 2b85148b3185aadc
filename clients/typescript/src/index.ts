import { type Client, createClient as create, createConfig } from "./generated/client/index.js";

export * from "./generated/index.js";
export type { Client };

/**
 * A client of one server, for the calls of this package: `conceptSegment({ client, body })`.
 *
 * Each call gives `{ data, error, response }`, with `data` or `error` of the call's own types. Where
 * no answer came, `error` is that of `fetch`, and there is no `response`. `throwOnError: true` throws
 * the error in place of giving it.
 *
 * @param url Where the server is, such as `http://127.0.0.1:9001`.
 * @param key The API key. It is sent as a header, and in no other of the ways that there are.
 */
export function createClient(url: string, key?: string): Client {
  const auth = ({ name }: { name?: string }) => (name === "x-api-key" ? key : undefined);
  return create(createConfig({ baseUrl: url, auth }));
}
