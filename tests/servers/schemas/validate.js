// Says whether a result is valid in a revision of MCP, by the schemas of the TypeScript SDK of its time.
//
// Reads one JSON array a line, [revision, schema, value], as ["2025-06-18", "CallToolResult", {...}]; answers each with a
// line: null, or what is wrong as a JSON string.

import { createInterface } from "node:readline";

const schemas = {};
for (const revision of ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]) {
  schemas[revision] = await import(`mcp-${revision}/types.js`);
}

for await (const line of createInterface({ input: process.stdin })) {
  const [revision, schema, value] = JSON.parse(line);
  const found = schemas[revision][`${schema}Schema`].safeParse(value);
  console.log(JSON.stringify(found.success ? null : found.error.message));
}
