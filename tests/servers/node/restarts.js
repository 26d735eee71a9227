// A host on one of the two TypeScript SDKs whose server goes away and comes back between two calls.
//
//     node restarts.js '{"sdk": 1 or 2, "era": "legacy" or "modern", "token": "...", "url": "..."}'
//     node restarts.js '{..., "command": ["moltis", "connect"]}'
//
// It calls one__echo, says "ready", waits for a line on stdin, and prints as JSON what two__echo said and what it lists.

const wanted = JSON.parse(process.argv[2]);
const info = { name: "ts-host", version: "1.0.0" };

async function first() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  return { client: new Client(info), StdioClientTransport, StreamableHTTPClientTransport };
}

async function second() {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
  const mode = wanted.era === "modern" ? { pin: "2026-07-28" } : "legacy";
  return { client: new Client(info, { versionNegotiation: { mode } }), StdioClientTransport, StreamableHTTPClientTransport };
}

const { client, StdioClientTransport, StreamableHTTPClientTransport } = await (wanted.sdk === 1 ? first() : second());
client.onerror = () => {};
const bearer = wanted.token ? { authorization: `Bearer ${wanted.token}` } : {};
const transport = wanted.url
  ? new StreamableHTTPClientTransport(new URL(wanted.url), { requestInit: { headers: bearer } })
  : new StdioClientTransport({ command: wanted.command[0], args: wanted.command.slice(1), env: process.env });
await client.connect(transport);
const echo = async (server) => (await client.callTool({ name: `${server}__echo`, arguments: { text: server } })).content[0].text;
await echo("one");
console.log("ready");
await new Promise((go) => process.stdin.once("data", go));
const said = { echo: await echo("two"), tools: (await client.listTools()).tools.map((tool) => tool.name) };
console.log(JSON.stringify(said));
await client.close();
process.exit(0);
