// Shows the OpenAPI document of the service that this page comes from.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  // the service is not reachable from the validator of swagger.io, and need not be
  validatorUrl: null,
});
