/** The API reference: Swagger UI over this server's OpenAPI document, with the key of the tab. */

import { key, takeKeyFromAddress } from "./key.js";
import { followTheme } from "./theme.js";

takeKeyFromAddress();
followTheme();

const answer = await fetch("openapi.json", { credentials: "omit" });
const spec = await answer.json();
// Also where a proxy serves this server under a path.
spec.servers = [{ url: new URL(".", location.origin + location.pathname).href.replace(/\/$/, "") }];

const ui = globalThis.SwaggerUIBundle({
  spec,
  dom_id: "#reference",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  // It would send the document to a service on the internet.
  validatorUrl: null,
  onComplete: () => {
    if (key()) ui.preauthorizeApiKey("ApiKeyHeader", key());
  },
});
