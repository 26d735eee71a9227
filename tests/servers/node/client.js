// A host on one of the two TypeScript SDKs. It does with one server what hosts do, and prints what came of it as JSON.
//
//     node client.js '{"sdk": 1 or 2, "era": "legacy" or "modern", "prefix": "server__", "token": "...", "url": "..."}'
//     node client.js '{..., "command": ["moltis", "connect"]}'
//
// SDK 1 (@modelcontextprotocol/sdk) speaks the legacy era only; 2 (@modelcontextprotocol/client) speaks both.

const wanted = JSON.parse(process.argv[2]);
const info = { name: "ts-host", version: "1.0.0" };
const capabilities = { elicitation: {}, sampling: {}, roots: { listChanged: true } };
const answers = {
  "elicitation/create": async () => ({ action: "accept", content: { username: "zoe", email: "zoe@example.com" } }),
  "sampling/createMessage": async () => ({
    role: "assistant", content: { type: "text", text: "sampled" }, model: "a-model", stopReason: "endTurn",
  }),
  "roots/list": async () => ({ roots: [{ uri: "file:///home/zoe", name: "home" }] }),
};

async function first() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const types = await import("@modelcontextprotocol/sdk/types.js");
  const client = new Client(info, { capabilities });
  client.setRequestHandler(types.ElicitRequestSchema, answers["elicitation/create"]);
  client.setRequestHandler(types.CreateMessageRequestSchema, answers["sampling/createMessage"]);
  client.setRequestHandler(types.ListRootsRequestSchema, answers["roots/list"]);
  const call = (params, options) => client.callTool(params, undefined, options);
  return { client, call, StdioClientTransport, StreamableHTTPClientTransport };
}

async function second() {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
  const mode = wanted.era === "modern" ? { pin: "2026-07-28" } : "legacy";
  const client = new Client(info, { capabilities, versionNegotiation: { mode } });
  for (const [method, answer] of Object.entries(answers)) client.setRequestHandler(method, answer);
  const call = (params, options) => client.callTool(params, options);
  return { client, call, StdioClientTransport, StreamableHTTPClientTransport };
}

const { client, call, StdioClientTransport, StreamableHTTPClientTransport } = await (wanted.sdk === 1 ? first() : second());
const named = (name) => `${wanted.prefix}${name}`;
const bearer = wanted.token ? { authorization: `Bearer ${wanted.token}` } : {};
const textOf = (result) => result.content[0].text;

const transport = wanted.url
  ? new StreamableHTTPClientTransport(new URL(wanted.url), { requestInit: { headers: bearer } })
  : new StdioClientTransport({ command: wanted.command[0], args: wanted.command.slice(1), env: process.env });
await client.connect(transport);

const progress = [];
const said = {
  server: client.getServerVersion(),
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
  resources: (await client.listResources()).resources.map((resource) => resource.uri),
  templates: (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate),
};
said.echo = textOf(await call({ name: named("echo"), arguments: { text: "Grüße 👋" } }));
said.failed = (await call({ name: named("test_error_handling"), arguments: {} })).isError;
said.prompt = (await client.getPrompt({
  name: named("test_prompt_with_arguments"), arguments: { arg1: "one", arg2: "two" },
})).messages[0].content.text;
said.read = (await client.readResource({ uri: "test://template/123/data" })).contents[0].text;
// One that is read in one piece with the reply is forgotten: on a busy machine that may be more than the last.
for (let tries = 0; tries < 5 && progress.length < 2; tries++) {
  progress.length = 0;
  await call({ name: named("test_tool_with_progress"), arguments: {} }, { onprogress: (p) => progress.push(p.progress) });
}
said.progress = progress;
said.elicited = textOf(await call({ name: named("test_elicitation"), arguments: { message: "Who?" } }));
said.sampled = textOf(await call({ name: named("test_sampling"), arguments: { prompt: "What?" } }));
said.roots = textOf(await call({ name: named("test_input_required_result_list_roots"), arguments: {} }));
said.completed = (await client.complete({
  ref: { type: "ref/prompt", name: named("test_prompt_with_arguments") }, argument: { name: "arg1", value: "par" },
})).completion.values;
said.seen = JSON.parse(textOf(await call({ name: named("seen"), arguments: {} })));
await client.close();
console.log(JSON.stringify(said));
