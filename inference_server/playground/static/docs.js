/** The API reference: Swagger UI for this server's OpenAPI document, with the key of this tab. */

import { key, takeKeyFromAddress } from "./key.js";
import { followTheme } from "./theme.js";

takeKeyFromAddress();
followTheme();

const response = await fetch("openapi.json", { credentials: "omit" });
const spec = await response.json();
// The page's own path, so that it works behind a proxy with a path prefix.
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
  // The default validator would send the document to an external service.
  validatorUrl: null,
  onComplete: () => {
    if (key()) ui.preauthorizeApiKey("ApiKeyHeader", key());
  },
});
