"""Streamable HTTP for hosts, of both protocol eras (MCP 2025-11-25 and 2026-07-28, Transports).

    socket -> server (uvicorn) -> application -> exchange -> Host
                                  (doors, limits,  (one POST,     (one host;
                                   sessions)        or a stream)   moltis.gateway.host)

    settings     what moltis.toml says about it
    address      sockets that listen
    listener     the address: bound, or tried again
    server       uvicorn, with what a daemon must have otherwise
    joining      head and body in one write
    application  one request: let in, read, handed on
    refusals     what is answered to those that are not
    exchange     the way back: one JSON body, or a stream of events
    sessions     hosts of the eras that have sessions
    modern       what 2026-07-28 wants of a request's headers
    plain        health and metrics, for which a framework is good enough

Nothing here looks below a message's envelope. The one rule: neither tokens, nor query strings, nor bodies are ever
logged or sent back.
"""
