"""Remote servers: Streamable HTTP of both protocol eras, and the older HTTP+SSE.

opening      a transport of what moltis.toml says; `transport = "sse"`: either kind
base         what every connection is: a task, and a task for each message
delivery     a message on its way: posted, answered, sent once more, or failed; `http.authorized` sends
  outcomes   what an answer means for its message, and what its body says to a person, pure
  headers    what MCP wants in HTTP headers, pure
streamable   Streamable HTTP: one POST a message, its reply as JSON or as a stream
  incoming   messages out of an answer; events: server-sent events, pure
  replies    is it the reply, and what does it say of the session, pure
  sessions   the session up to 2025-11-25; renewal: begun anew when lost; standing: its GET stream
legacy       HTTP+SSE of MCP 2024-11-05: one GET stream, messages posted beside it
"""
