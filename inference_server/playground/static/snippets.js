/** A request as code that can be pasted: curl, Python, JavaScript. */

const PLACEHOLDER = "YOUR_API_KEY";

/**
 * @typedef {object} Asked
 * @property {string} url
 * @property {object} body without the picture.
 * @property {string | null} file that holds the picture, or null to name it by its id.
 * @property {string} id of the picture.
 * @property {string | null} key null where the server wants none, empty for a placeholder.
 */

/** @param {string} text in single quotes for a shell. */
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A value on one line, as each language writes it; JSON's strings are strings in all three. */
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

/** An object with a line for each member, and for each prompt. */
function lines(body, indent, words) {
  const members = Object.entries(body).map(([name, value]) => {
    if (name !== "prompts") return `${JSON.stringify(name)}: ${literal(value, words)}`;
    const list = value.map((each) => `${indent}  ${literal(each, words)}`).join(",\n");
    return `"prompts": [\n${list}\n${indent}]`;
  });
  return members.map((member) => `${indent}${member}`).join(",\n");
}

/** @param {Asked} asked */
export function curl({ url, body, file, id, key }) {
  const header = key === null ? "" : `  -H ${shell(`x-api-key: ${key || PLACEHOLDER}`)} \\\n`;
  const json = lines(body, "  ");
  // Where the shell puts the file into the text, what it would read itself is escaped.
  const picture = file
    ? `  "image": {"type": "base64", "value": "$(base64 < ${shell(file)} | tr -d '\\n')"}`
    : `  "image_id": ${JSON.stringify(id)}`;
  const rest = file ? json.replace(/[\\$`]/g, "\\$&") : json;
  const end = file ? "END" : "'END'";
  return (
    `curl -s ${shell(url)} \\\n${header}` +
    `  -H 'content-type: application/json' -d @- <<${end}\n{\n${picture},\n${rest}\n}\nEND\n`
  );
}

/** @param {Asked} asked */
export function python({ url, body, file, id, key }) {
  const words = { true: "True", false: "False", null: "None" };
  const read = file
    ? `with open(${JSON.stringify(file)}, "rb") as file:\n` +
      "    picture = base64.b64encode(file.read()).decode()\n\n"
    : "";
  const picture = file
    ? '        "image": {"type": "base64", "value": picture},'
    : `        "image_id": ${JSON.stringify(id)},`;
  const header = key === null ? "" : `    headers={"x-api-key": ${JSON.stringify(key || PLACEHOLDER)}},\n`;
  return (
    `${file ? "import base64\n\n" : ""}import requests\n\n${read}` +
    `answer = requests.post(\n    ${JSON.stringify(url)},\n${header}` +
    `    json={\n${picture}\n${lines(body, "        ", words)},\n    },\n    timeout=300,\n)\n` +
    "answer.raise_for_status()\nprint(answer.json())\n"
  );
}

/** @param {Asked} asked */
export function javascript({ url, body, file, id, key }) {
  const read = file
    ? 'import { readFile } from "node:fs/promises";\n\n' +
      `const picture = await readFile(${JSON.stringify(file)}, "base64");\n`
    : "";
  const picture = file
    ? '    "image": {"type": "base64", "value": picture},'
    : `    "image_id": ${JSON.stringify(id)},`;
  const header = key === null ? "" : `, "x-api-key": ${JSON.stringify(key || PLACEHOLDER)}`;
  return (
    `${read}const answer = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n` +
    `  headers: {"content-type": "application/json"${header}},\n` +
    `  body: JSON.stringify({\n${picture}\n${lines(body, "    ")}\n  }),\n});\n` +
    "if (!answer.ok) throw new Error(await answer.text());\n" +
    "console.log(JSON.stringify(await answer.json()));\n"
  );
}

export const LANGUAGES = { curl, python, javascript };
