// Draws openapi.json with Swagger UI. Version 4 reads OpenAPI 3.0 only, and we write 3.1: what differs is told in its words.
"use strict";

function older(schema) {
  if (Array.isArray(schema)) return schema.map(older);
  if (schema === null || typeof schema !== "object") return schema;
  const made = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, older(value)]));
  const kinds = Array.isArray(schema.anyOf) ? made.anyOf.filter((kind) => kind.type !== "null") : [];
  if (kinds.length && kinds.length < schema.anyOf.length) {
    delete made.anyOf;
    Object.assign(made, kinds.length === 1 ? kinds[0] : { anyOf: kinds }, { nullable: true });
  }
  if (Array.isArray(schema.examples)) {
    made.example = schema.examples[0];
    delete made.examples;
  }
  return made;
}

async function draw() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error((await answer.json()).detail);
  const spec = { ...older(await answer.json()), openapi: "3.0.3" };
  SwaggerUIBundle({ spec, dom_id: "#docs", validatorUrl: null, deepLinking: true, tryItOutEnabled: true });
}

draw().catch((error) => {
  document.getElementById("docs").textContent = `The description could not be drawn: ${error.message}`;
});
