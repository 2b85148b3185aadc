/** The server: how it is asked, and what comes with its answers. */

import { key } from "./key.js";
import { Problem } from "./problem.js";

/** Where the API is: beside this page, without what else may be in the address. */
export const BASE = location.origin + location.pathname.replace(/[^/]*$/, "");

/**
 * @typedef {object} Exchange what the page tells about a request.
 * @property {string} path
 * @property {number} status
 * @property {string} model
 * @property {string} cache `hit`, `miss` or empty.
 * @property {{name: string, milliseconds: number}[]} timings of the server.
 * @property {number} milliseconds until the answer was here.
 */

/** @param {string} header the value of `server-timing`. */
export function timingsOf(header) {
  return (header ?? "")
    .split(",")
    .map((part) => /^\s*([\w-]+).*?;\s*dur=([\d.]+)/.exec(part))
    .filter((match) => match !== null)
    .map((match) => ({ name: match[1], milliseconds: Number(match[2]) }));
}

/**
 * Ask the server.
 *
 * @param {string} path without the leading slash.
 * @param {object} [body] is sent as JSON by POST; without it, GET.
 * @returns {Promise<{body: any, exchange: Exchange}>}
 * @throws {Problem} the answer is an error, or there is none.
 */
export async function ask(path, body) {
  const begin = performance.now();
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
      milliseconds: performance.now() - begin,
    },
  };
}
