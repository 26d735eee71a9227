// A host on the TypeScript SDK, version 1 or 2, that listens over HTTP. It prints "listens" when its stream is open, and
// the names of the tools, on one line, when it has begun and whenever it is told that they changed.
const [version, url, token] = process.argv.slice(2);
const paths = {
  1: ["@modelcontextprotocol/sdk/client/index.js", "@modelcontextprotocol/sdk/client/streamableHttp.js", "@modelcontextprotocol/sdk/types.js"],
  2: ["@modelcontextprotocol/client"],
}[version];
const sdk = Object.assign({}, ...(await Promise.all(paths.map((path) => import(path)))));

const noticing = async (target, init) => {
  const response = await fetch(target, init);
  if (init?.method === "GET" && response.ok) console.log("listens");
  return response;
};
const client = new sdk.Client({ name: "listens", version });
const tell = async () => console.log((await client.listTools()).tools.map((tool) => tool.name).join(" "));
client.setNotificationHandler(sdk.ToolListChangedNotificationSchema ?? "notifications/tools/list_changed", tell);
const requestInit = { headers: { authorization: `Bearer ${token}` } };
await client.connect(new sdk.StreamableHTTPClientTransport(new URL(url), { requestInit, fetch: noticing }));
await tell();
