// Generate src/generated: `node generate.mjs <OpenAPI document> <directory>`. `make clients` runs it.

import { readFile } from "node:fs/promises";
import { createClient } from "@hey-api/openapi-ts";

const [input, output] = process.argv.slice(2);
const document = JSON.parse(await readFile(input, "utf8"));

// The generator supports one media type per status code, but the client parses JSON as JSON and
// everything else as a file. So declare a response as the union of all its media types.
for (const operations of Object.values(document.paths)) {
  for (const operation of Object.values(operations)) {
    for (const response of Object.values(operation.responses)) {
      const media = Object.values(response.content ?? {});
      if (media.length > 1) {
        const schemas = new Map(media.map(({ schema }) => [JSON.stringify(schema), schema]));
        response.content = { "application/json": { schema: { anyOf: [...schemas.values()] } } };
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
