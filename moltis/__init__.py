"""moltis keeps a person's MCP servers alive.

    moltis.toml -> Plan -> Supervisor -> Actor -> Session -> Transport -> Warden -> a local server
                   (what is to run)     (one server)  (MCP)     (bytes)  -> HTTP, with a Login -> a remote one

Reading order, from what decides to what does:

    config      moltis.toml: read, checked, turned into a plan, edited
    private     files of the user's own: made, read, replaced and locked by one rule for owner, mode and links
    redaction   what a secret is, and how it is kept out of everything that is shown
    server      one server's states and their table; the actor that lives them; all actors
    session     one MCP connection: handshake of both protocol eras, calls, lists, heartbeat
    transport   messages to and from a process; the warden that starts and ends processes; the event loop's callbacks
                transport.remote: Streamable HTTP of both eras, and the older HTTP+SSE
    http        the one HTTP stack: which addresses may be reached, bounded bodies, TLS
    httpd       serving HTTP: sockets, limits, routes and who may use them
    oauth       logging in: discovery, registration, PKCE, tokens, their store
    gateway     one MCP endpoint for every host: all servers as one, or one as it is; both eras on both sides
    operations  what can be asked of the daemon, and who may; apart from how it is asked
    control     the local JSON-RPC socket, a front of the operations, and the client of the command line
    logs        logs.jsonl, written on a thread of its own; logtail reads it back
    service     sd_notify
    daemon      all of it put together
    cli         the `moltis` command, which reaches the daemon only through the socket

Modules import from their own package and from those above them in tests/test_architecture.py's table, never upwards.
"""

__version__ = "0.5.0"
