/** Code snippets of a request: curl, Python and JavaScript. */

const PLACEHOLDER = "YOUR_API_KEY";

/**
 * @typedef {object} Snippet
 * @property {string} url
 * @property {object} body request body, without the image.
 * @property {string | null} file name of the image file, or null to refer to the image by id.
 * @property {string} id `image_id` of the image.
 * @property {string | null} key API key; null if the server needs none, empty for a placeholder.
 */

/** Quote a text for the shell. @param {string} text */
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Format a value on one line. JSON strings are valid in all three languages. */
function literal(value, words = { true: "true", false: "false", null: "null" }) {
  if (Array.isArray(value)) return `[${value.map((each) => literal(each, words)).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(
      ([name, each]) => `${JSON.stringify(name)}: ${literal(each, words)}`,
    );
    return `{${members.join(", ")}}`;
  }
  return typeof value === "string" ? JSON.stringify(value) : (words[value] ?? String(value));
}

/** Format an object with one line per member and per prompt. */
function lines(body, indent, words) {
  const members = Object.entries(body).map(([name, value]) => {
    if (name !== "prompts") return `${JSON.stringify(name)}: ${literal(value, words)}`;
    const list = value.map((each) => `${indent}  ${literal(each, words)}`).join(",\n");
    return `"prompts": [\n${list}\n${indent}]`;
  });
  return members.map((member) => `${indent}${member}`).join(",\n");
}

/** @param {Snippet} snippet */
export function curl({ url, body, file, id, key }) {
  const header = key === null ? "" : `  -H ${shell(`x-api-key: ${key || PLACEHOLDER}`)} \\\n`;
  const json = lines(body, "  ");
  // The here-document expands the file's base64, so other shell syntax is escaped.
  const image = file
    ? `  "image": {"type": "base64", "value": "$(base64 < ${shell(file)} | tr -d '\\n')"}`
    : `  "image_id": ${JSON.stringify(id)}`;
  const rest = file ? json.replace(/[\\$`]/g, "\\$&") : json;
  const end = file ? "END" : "'END'";
  return (
    `curl -s ${shell(url)} \\\n${header}` +
    `  -H 'content-type: application/json' -d @- <<${end}\n{\n${image},\n${rest}\n}\nEND\n`
  );
}

/** @param {Snippet} snippet */
export function python({ url, body, file, id, key }) {
  const words = { true: "True", false: "False", null: "None" };
  const read = file
    ? `with open(${JSON.stringify(file)}, "rb") as file:\n` +
      "    image = base64.b64encode(file.read()).decode()\n\n"
    : "";
  const image = file
    ? '        "image": {"type": "base64", "value": image},'
    : `        "image_id": ${JSON.stringify(id)},`;
  const header = key === null ? "" : `    headers={"x-api-key": ${JSON.stringify(key || PLACEHOLDER)}},\n`;
  return (
    `${file ? "import base64\n\n" : ""}import requests\n\n${read}` +
    `response = requests.post(\n    ${JSON.stringify(url)},\n${header}` +
    `    json={\n${image}\n${lines(body, "        ", words)},\n    },\n    timeout=300,\n)\n` +
    "response.raise_for_status()\nprint(response.json())\n"
  );
}

/** @param {Snippet} snippet */
export function javascript({ url, body, file, id, key }) {
  const read = file
    ? 'import { readFile } from "node:fs/promises";\n\n' +
      `const image = await readFile(${JSON.stringify(file)}, "base64");\n`
    : "";
  const image = file
    ? '    "image": {"type": "base64", "value": image},'
    : `    "image_id": ${JSON.stringify(id)},`;
  const header = key === null ? "" : `, "x-api-key": ${JSON.stringify(key || PLACEHOLDER)}`;
  return (
    `${read}const response = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n` +
    `  headers: {"content-type": "application/json"${header}},\n` +
    `  body: JSON.stringify({\n${image}\n${lines(body, "    ")}\n  }),\n});\n` +
    "if (!response.ok) throw new Error(await response.text());\n" +
    "console.log(JSON.stringify(await response.json()));\n"
  );
}

export const LANGUAGES = { curl, python, javascript };
