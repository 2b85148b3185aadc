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

/** Headers of all requests. */
const headers = () => (key() ? { "x-api-key": key() } : {});

/**
 * Send a request.
 *
 * @param {string} path without the leading slash.
 * @param {object | FormData} [body] body of a POST request, a form or an object that is sent as
 *   JSON; without it, the request is a GET.
 * @param {(share: number) => void} [onUpload] called with the share of the body that was sent.
 * @returns {Promise<{body: any, exchange: Exchange}>}
 * @throws {Problem} on an error response, or without a response.
 */
export async function request(path, body, onUpload) {
  const start = performance.now();
  const sender = new XMLHttpRequest();
  sender.open(body === undefined ? "GET" : "POST", BASE + path);
  for (const [name, value] of Object.entries(headers())) sender.setRequestHeader(name, value);
  if (onUpload) {
    sender.upload.onprogress = (event) => event.total && onUpload(event.loaded / event.total);
    sender.upload.onload = () => onUpload(1);
  }
  await new Promise((resolve) => {
    sender.onloadend = resolve;
    if (body === undefined || body instanceof FormData) sender.send(body);
    else {
      sender.setRequestHeader("content-type", "application/json");
      sender.send(JSON.stringify(body));
    }
  });
  const { status, responseText: text } = sender;
  const header = (name) => sender.getResponseHeader(name);
  if (!status) throw Problem.unreachable(location.origin);
  if (status >= 400) throw Problem.of(status, text, header("retry-after"));
  return {
    body: JSON.parse(text),
    exchange: {
      path: `/${path}`,
      status,
      model: decodeURIComponent(header("x-model") ?? ""),
      cache: header("x-embedding-cache") ?? "",
      timings: timingsOf(header("server-timing")),
      milliseconds: performance.now() - start,
    },
  };
}
