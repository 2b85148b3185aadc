// Prints src/schema.ts: the types of an OpenAPI document, given by its path.
// `make clients` runs it and writes the file.

import { readFile } from "node:fs/promises";
import openapiTS, { astToString, COMMENT_HEADER } from "openapi-typescript";
import ts from "typescript";

const document = JSON.parse(await readFile(process.argv[2], "utf8"));
// Long answers in a comment are no help in an editor.
for (const schema of Object.values(document.components.schemas)) delete schema.examples;

const types = await openapiTS(document, {
  // A field with a default may be left out of a request.
  defaultNonNullable: false,
  // Files are sent and received as what `fetch` has for them.
  transform: (schema) =>
    schema.format === "binary"
      ? ts.factory.createTypeReferenceNode(ts.factory.createIdentifier("Blob"))
      : undefined,
});
process.stdout.write(COMMENT_HEADER + astToString(types));
