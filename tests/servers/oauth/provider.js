// A real authorization server on 127.0.0.1: dynamic registration, PKCE, resource indicators, rotating refresh tokens,
// revocation, introspection, `iss` in the response. Whoever visits is logged in and agrees at once.
//
//   node provider.js [--port N] [--access-ttl SECS] [--events FILE]
//
// Prints one line of JSON, {"issuer", "introspection"}, when it listens. --events is a file to which one JSON object a
// line is appended: what it granted, refused and registered, by its own account; no token is ever in it.
//
// For the test that runs it, beside the protocol:
//   POST /test/ttl?secs=N     from now on access tokens live so long
//   POST /test/expire         every access token issued so far is over; refresh tokens are not
//   POST /test/revoke         every grant is over, with all its tokens, as if the person had withdrawn it
//   POST /test/down?on=0|1    answers 503 with a proxy's HTML, or is back

import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const options = { port: "0", "access-ttl": "3600", events: "" };
for (let i = 2; i < process.argv.length; i += 2) {
  const name = process.argv[i].replace(/^--/, "");
  if (!(name in options)) throw new Error(`unknown option ${process.argv[i]}`);
  options[name] = process.argv[i + 1];
}

// MOLTIS_TEST_OIDC names a folder that has the package; otherwise it is installed beside this file.
const installed = process.env.MOLTIS_TEST_OIDC;
const { default: Provider } = await import(
  installed ? createRequire(path.join(installed, "x.js")).resolve("oidc-provider") : "oidc-provider"
);

const SCOPES = ["openid", "offline_access", "mcp:read", "mcp:write"]; // a client may only be registered for these
const state = { accessTtl: Number(options["access-ttl"]), down: false, issued: [] };

function tell(event, facts = {}) {
  if (options.events) fs.appendFileSync(options.events, JSON.stringify({ at: Date.now() / 1000, event, ...facts }) + "\n");
}

const server = http.createServer();
await new Promise((resolve) => server.listen(Number(options.port), "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "resource-server",
      client_secret: "resource-server-secret",
      redirect_uris: [],
      response_types: [],
      grant_types: [],
    },
    {
      client_id: "registered-by-hand",
      token_endpoint_auth_method: "none",
      application_type: "native",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code", "refresh_token"],
    },
    {
      client_id: "machine",
      client_secret: "machine-secret/with:odd+chars",
      redirect_uris: [],
      response_types: [],
      grant_types: ["client_credentials"],
    },
  ],
  scopes: SCOPES,
  cookies: { keys: ["only for tests"] },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    registration: { enabled: true },
    revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: "mcp:read mcp:write",
        audience: resource,
        accessTokenFormat: "opaque",
        accessTokenTTL: state.accessTtl,
      }),
    },
  },
  ttl: { Session: 86400, Grant: 86400, RefreshToken: 86400, Interaction: 600, AuthorizationCode: 60 },
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed("refresh_token"),
  rotateRefreshToken: true,
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
});

async function agree(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    await provider.interactionFinished(request, response, { login: { accountId: "person" } });
    return;
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(SCOPES.join(" "));
  for (const resource of [params.resource ?? []].flat()) grant.addResourceScope(resource, "mcp:read mcp:write");
  await provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

async function forTheTest(url, response) {
  const value = [...url.searchParams.values()][0];
  if (url.pathname === "/test/ttl") state.accessTtl = Number(value);
  else if (url.pathname === "/test/down") state.down = value === "1";
  else if (url.pathname === "/test/expire" || url.pathname === "/test/revoke") {
    for (const token of state.issued.splice(0)) {
      await token.destroy();
      if (url.pathname === "/test/revoke" && token.grantId) {
        await provider.RefreshToken.revokeByGrantId(token.grantId);
        await (await provider.Grant.find(token.grantId))?.destroy();
      }
    }
  } else response.statusCode = 404;
  tell("test", { path: url.pathname, value });
  response.end("{}");
}

const handle = provider.callback();
server.on("request", (request, response) => {
  const url = new URL(request.url, issuer);
  const failed = (error) => {
    tell("failure", { message: String(error) });
    response.statusCode = 500;
    response.end();
  };
  if (url.pathname.startsWith("/test/")) forTheTest(url, response).catch(failed);
  else if (state.down) {
    tell("turned away", { path: url.pathname });
    response.writeHead(503, { "content-type": "text/html" }).end("<html><body>bad gateway</body></html>");
  } else if (url.pathname.startsWith("/interaction/")) agree(request, response).catch(failed);
  else handle(request, response);
});

provider.on("access_token.saved", (token) => state.issued.push(token));
provider.on("client_credentials.saved", (token) => state.issued.push(token));
provider.on("registration_create.success", (ctx, client) => tell("registered", { client: client.clientId }));
provider.on("authorization.success", (ctx) => tell("authorized", { client: ctx.oidc.client.clientId, resource: ctx.oidc.params.resource, scope: ctx.oidc.params.scope }));
provider.on("authorization.error", (ctx, error) => tell("not authorized", { error: error.error, detail: error.error_detail ?? error.error_description }));
provider.on("grant.success", (ctx) => tell("granted", { type: ctx.oidc.params.grant_type, client: ctx.oidc.client.clientId, resource: ctx.oidc.params.resource }));
provider.on("grant.error", (ctx, error) => tell("not granted", { type: ctx.oidc?.params?.grant_type, error: error.error, detail: error.error_detail ?? error.error_description }));
provider.on("grant.revoked", () => tell("family revoked"));
for (const token of ["access_token", "refresh_token"]) provider.on(`${token}.destroyed`, () => tell("destroyed", { token }));
for (const name of ["server_error", "registration_create.error", "introspection.error", "revocation.error"]) {
  provider.on(name, (ctx, error) => tell("failure", { where: name, message: String(error), detail: error.error_description }));
}

console.log(JSON.stringify({ issuer, introspection: `${issuer}/token/introspection` }));
