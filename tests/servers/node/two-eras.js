// A server on version 2 of the TypeScript SDK, over stdio.  node two-eras.js serve|reject
//
// serve: speaks both eras, the one that its first request is of. reject: refuses `initialize` (-32022).

import { McpServer } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";

serveStdio(
  () => {
    const server = new McpServer({ name: "two-eras", version: "1.0.0" }, { capabilities: { tools: {} } });
    server.registerTool("quick", { description: "Answers" }, async () => ({ content: [{ type: "text", text: "quick" }] }));
    return server;
  },
  { legacy: process.argv[2] },
);
