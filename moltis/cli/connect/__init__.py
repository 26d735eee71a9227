"""`moltis connect`: an MCP host's way to the daemon over stdin and stdout.

    quick    from the command's words to the pump, without click; `command` is the same for help and for mistakes
    door     one connection to the daemon, handed over by `mcp.connect`
    start    with `--run`, an attempt to start the daemon; `starter` is the process that does it
    pump     lines both ways, and the wait for a daemon that went away
    standin  what is answered without a daemon: its own gateway, over what servers listed when last ready
    ledger   what the host and the daemon owe each other: pure

A host starts this with every session and waits for it, so nothing here imports click, msgspec, pathlib or dataclasses
before something goes wrong; where no daemon is there, `standin` does. Bytes pass exactly as they came.
"""
