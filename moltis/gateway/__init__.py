"""MCP endpoints for every host on the machine: all servers as one, or one as it is.

    host -> http (or lines) -> Host -> Endpoint -> forwarding -> Session -> the server
                               (one     (a view,   (one request,
                               host)    served)    both eras)

    messages    what a host sends, its envelope only; what is sent to it
    api         the protocols between the parts
    naming      names that are unique across servers, and the way back; `templates` read URI templates backwards
    catalogue   what is listed, in pages: a shelf for each server (`shelves`); and who is responsible for a name;
                `known` keeps on disk what servers listed when they were last ready
    views       what a host sees, as a value, and at which path: `/mcp` and `/servers/NAME/mcp` are two kinds of it
    endpoints   a view, served: what is listed there now, and who is responsible for a request
    gateway     all hosts and all servers, brought together
    host        one host: its eras, what it subscribed to (`subscriptions`, `listens`, `levels`), what it is told when
                it comes (`introduction`) or is asked (`outbox`), and how long it waits for servers (`waits`)
    forwarding  requests passed on: one way there and back, with questions meanwhile, is a `relay`; `rounds` and
                `parking` bridge the eras, `failures` is what is said when there is no answer
    http        Streamable HTTP of both eras on `moltis.httpd`: sessions, streams; health and metrics beside it
    doors       who may come in, and how often; `tokens` are made, recognised and kept (`token_file`)
    lines       the same over stdio, for `moltis connect`
    metrics     counting

A *host* is a program with a model in it (MCP, Architecture); a *server* is one of ours. What a host sends is a request
(`Ask`), a notification (`Tell`) or an answer to a server's question (`Answer`).
"""
