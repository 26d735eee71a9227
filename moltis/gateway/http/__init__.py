"""Streamable HTTP for hosts, of both protocol eras (MCP 2025-11-25 and 2026-07-28, Transports).

    httpd -> application -> conversations -> exchange -> Host
             (doors, limits,  (sessions)     (one POST)  (one host; moltis.gateway.host)
              routes)

    listener       the address: bound, or tried again
    application    one request: let in, read, handed on
    plain          health, metrics, and what is not there
    refusals       what is answered to those that are not let in
    conversations  what hosts have under way
    exchange       the way back of one request: one JSON body, or a stream of events
    sessions       hosts of the eras that have sessions; `kept`: those that outlive the daemon
    modern         what 2026-07-28 wants of a request's headers

Nothing here looks below a message's envelope, and neither tokens, nor query strings, nor bodies are ever logged or sent
back.
"""
