/** HTTP client of the server. */

import { key } from "./key.js";
import { Problem } from "./problem.js";

/** Base URL of the API: that of this page, without file name, query and fragment. */
export const BASE = location.origin + location.pathname.replace(/[^/]*$/, "");

/**
 * @typedef {object} Exchange facts about a request and its response.
 * @property {string} path
 * @property {number} status
 * @property {string} model
 * @property {string} cache embedding cache: `hit`, `miss` or empty.
 * @property {{name: string, milliseconds: number}[]} timings steps on the server.
 * @property {number} milliseconds round-trip time.
 */

/** @param {string} header value of the `server-timing` header. */
export function timingsOf(header) {
  return (header ?? "")
    .split(",")
    .map((part) => /^\s*([\w-]+).*?;\s*dur=([\d.]+)/.exec(part))
    .filter((match) => match !== null)
    .map((match) => ({ name: match[1], milliseconds: Number(match[2]) }));
}

/**
 * Send a request.
 *
 * @param {string} path without the leading slash.
 * @param {object} [body] JSON body of a POST request; without it, the request is a GET.
 * @returns {Promise<{body: any, exchange: Exchange}>}
 * @throws {Problem} on an error response, or without a response.
 */
export async function request(path, body) {
  const start = performance.now();
  const headers = key() ? { "x-api-key": key() } : {};
  /** @type {RequestInit} */
  const options = { headers, credentials: "omit", cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["content-type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(BASE + path, options);
    text = await response.text();
  } catch {
    throw Problem.unreachable(location.origin);
  }
  if (!response.ok) throw Problem.of(response, text);
  return {
    body: JSON.parse(text),
    exchange: {
      path: `/${path}`,
      status: response.status,
      model: decodeURIComponent(response.headers.get("x-model") ?? ""),
      cache: response.headers.get("x-embedding-cache") ?? "",
      timings: timingsOf(response.headers.get("server-timing")),
      milliseconds: performance.now() - start,
    },
  };
}
