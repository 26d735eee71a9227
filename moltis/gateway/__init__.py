"""One MCP endpoint for every host on the machine: all servers as one, or one as it is.

    host -> http (or lines) -> Host -> View -> forwarding -> Session -> the server
                               (one     (all, or           (one request,
                               host)    one server)        both eras)

    messages    what a host sends, its envelope only; what is sent to it
    api         the protocols between the parts
    naming      names that are unique across servers, and the way back from them
    catalogue   what is listed: of ready servers, or last known of others; `known` keeps that on disk
    views       `/mcp` and `/servers/NAME/mcp`: what a host sees, and who is responsible for a request
    host        one host: its era, its questions, what it subscribed to
    forwarding  one request passed on: progress, questions, cancelling, errors; `rounds` and `parking` bridge the eras
    http        Streamable HTTP of both eras on uvicorn: doors, sessions, streams; health and metrics beside it
    lines       the same over stdio, for `moltis connect`
    tokens      access tokens and their store
    metrics     counting

A *host* is a program with a model in it (MCP, Architecture); a *server* is one of ours. What a host sends is a request
(`Ask`), a notification (`Tell`) or an answer to a server's question (`Answer`).
"""
