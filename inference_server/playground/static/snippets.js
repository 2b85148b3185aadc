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

/**
 * Characters that end a line, move the cursor, change the direction of text or are invisible. A
 * terminal may act on them when code is pasted, and nobody sees them, so snippets escape them.
 */
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]/gu;

const hex = (number, digits) => number.toString(16).padStart(digits, "0");

/** A string of JSON, on one line and without hidden characters. @param {string} text */
const json = (text) =>
  JSON.stringify(text).replace(HIDDEN, (character) =>
    // In UTF-16, because JSON has no other escapes.
    Array.from({ length: character.length }, (_, i) => `\\u${hex(character.charCodeAt(i), 4)}`).join(""),
  );

/** The same for Python, where a pair of surrogates is not one character. @param {string} text */
const pythonString = (text) =>
  JSON.stringify(text).replace(HIDDEN, (character) => {
    const code = character.codePointAt(0);
    return code > 0xffff ? `\\U${hex(code, 8)}` : `\\u${hex(code, 4)}`;
  });

/**
 * A string of JSON for the shell's input. Interactive shells expand `!` even in some quotes.
 * @param {string} text
 */
const shellJson = (text) => json(text).replaceAll("!", "\\u0021");

/**
 * Quote a text for any POSIX shell, on one line. Hidden characters become octal bytes of `printf`.
 * @param {string} text
 */
function shell(text) {
  if (!text.match(HIDDEN)) return `'${text.replaceAll("'", "'\\''")}'`;
  const bytes = Array.from(new TextEncoder().encode(text), (byte) =>
    /[\w. -]/.test(String.fromCharCode(byte))
      ? String.fromCharCode(byte)
      : `\\${byte.toString(8).padStart(3, "0")}`,
  );
  return `"$(printf '${bytes.join("").replace(/^-/, "\\055")}')"`;
}

const JSON_STYLE = { string: json, true: "true", false: "false", null: "null" };
const SHELL_STYLE = { ...JSON_STYLE, string: shellJson };
const PYTHON_STYLE = { string: pythonString, true: "True", false: "False", null: "None" };

/** Format a value on one line, in a language's style. */
function literal(value, style) {
  if (Array.isArray(value)) return `[${value.map((each) => literal(each, style)).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(
      ([name, each]) => `${style.string(name)}: ${literal(each, style)}`,
    );
    return `{${members.join(", ")}}`;
  }
  if (typeof value === "string") return style.string(value);
  return typeof value === "number" ? String(value) : style[String(value)];
}

/** Format an object with one line per member and per prompt. */
function lines(body, indent, style) {
  const members = Object.entries(body).map(([name, value]) => {
    if (name !== "prompts") return `${style.string(name)}: ${literal(value, style)}`;
    const list = value.map((each) => `${indent}  ${literal(each, style)}`).join(",\n");
    return `"prompts": [\n${list}\n${indent}]`;
  });
  return members.map((member) => `${indent}${member}`).join(",\n");
}

/** @param {Snippet} snippet */
export function curl({ url, body, file, id, key }) {
  const header = key === null ? "" : `  -H ${shell(`x-api-key: ${key || PLACEHOLDER}`)} \\\n`;
  const members = lines(body, "  ", SHELL_STYLE);
  // The here-document contains no file name: a name could contain the line that ends it. It expands
  // the variable, so other shell syntax is escaped.
  const read = file ? `image=$(base64 < ${shell(file)} | tr -d '\\n')\n` : "";
  const image = file
    ? '  "image": {"type": "base64", "value": "$image"}'
    : `  "image_id": ${shellJson(id)}`;
  const rest = file ? members.replace(/[\\$`]/g, "\\$&") : members;
  const end = file ? "END" : "'END'";
  return (
    `${read}curl -s ${shell(url)} \\\n${header}` +
    `  -H 'content-type: application/json' -d @- <<${end}\n{\n${image},\n${rest}\n}\nEND\n`
  );
}

/** @param {Snippet} snippet */
export function python({ url, body, file, id, key }) {
  const read = file
    ? `with open(${pythonString(file)}, "rb") as file:\n` +
      "    image = base64.b64encode(file.read()).decode()\n\n"
    : "";
  const image = file
    ? '        "image": {"type": "base64", "value": image},'
    : `        "image_id": ${pythonString(id)},`;
  const header = key === null ? "" : `    headers={"x-api-key": ${pythonString(key || PLACEHOLDER)}},\n`;
  return (
    `${file ? "import base64\n\n" : ""}import requests\n\n${read}` +
    `response = requests.post(\n    ${pythonString(url)},\n${header}` +
    `    json={\n${image}\n${lines(body, "        ", PYTHON_STYLE)},\n    },\n    timeout=300,\n)\n` +
    "response.raise_for_status()\nprint(response.json())\n"
  );
}

/** @param {Snippet} snippet */
export function javascript({ url, body, file, id, key }) {
  const read = file
    ? 'import { readFile } from "node:fs/promises";\n\n' +
      `const image = await readFile(${json(file)}, "base64");\n`
    : "";
  const image = file
    ? '    "image": {"type": "base64", "value": image},'
    : `    "image_id": ${json(id)},`;
  const header = key === null ? "" : `, "x-api-key": ${json(key || PLACEHOLDER)}`;
  return (
    `${read}const response = await fetch(${json(url)}, {\n  method: "POST",\n` +
    `  headers: {"content-type": "application/json"${header}},\n` +
    `  body: JSON.stringify({\n${image}\n${lines(body, "    ", JSON_STYLE)}\n  }),\n});\n` +
    "if (!response.ok) throw new Error(await response.text());\n" +
    "console.log(JSON.stringify(await response.json()));\n"
  );
}

export const LANGUAGES = { curl, python, javascript };
