"""The life of one supervised server: pure up to `transitions`, lived by `actor`.

Reading order:

    states       the words, and what each means to everyone else; loads nothing, for commands that only show it
    lifecycle    what can happen to a server and what is remembered of it, as values
    transitions  what follows from what: the table, and every deadline
    working      what a start that takes long is doing
    life         the run of a server as its actor sees it
    slots        turns to start, for all servers together
    record       what is kept of transitions and failures, for status and history
    actor        the task that lives one server's life
    supervisor   all actors, and what a changed plan means to them
    status       what anyone may see of it
    story        `moltis why`, from status and history
    causes       what programs' last words mean; mending: what to do about it
    diagram      the lifecycle as docs/lifecycle.md shows it, found by asking `transitions`

Only `actor`, `supervisor` and `slots` wait for anything.
"""
