// Writes src/generated: `node generate.mjs <OpenAPI document> <directory>`. `make clients` runs it.

import { readFile } from "node:fs/promises";
import { createClient } from "@hey-api/openapi-ts";

const [input, output] = process.argv.slice(2);
const document = JSON.parse(await readFile(input, "utf8"));

// The generator types one media type for each status. The client reads each as what it is, JSON as
// JSON and the others as files: so the type of an answer is any of them.
for (const operations of Object.values(document.paths)) {
  for (const operation of Object.values(operations)) {
    for (const answer of Object.values(operation.responses)) {
      const media = Object.values(answer.content ?? {});
      if (media.length > 1) {
        const schemas = new Map(media.map(({ schema }) => [JSON.stringify(schema), schema]));
        answer.content = { "application/json": { schema: { anyOf: [...schemas.values()] } } };
      }
    }
  }
}

await createClient({
  input: document,
  output: { path: output, module: { extension: ".js" } },
  plugins: ["@hey-api/client-fetch", "@hey-api/typescript", "@hey-api/sdk"],
  logs: { level: "silent", file: false },
});
