"""`moltis openapi`: what an OpenAPI document would give a host, before it is a server in moltis.toml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from moltis.cli import screen, table
from moltis.cli.commands import LazyGroup, command, json_option
from moltis.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from moltis.rest.operations import Plan

CHARS_PER_TOKEN = 4
"""Of JSON in English, by the tokenizers of hosts; told as "about"."""
FETCH_SECS = 60.0

group = LazyGroup(
    "openapi",
    table={"preview": ("moltis.cli.openapi:preview", "Show the tools that an OpenAPI document gives.")},
    help="Look at OpenAPI documents.",
)


@command("preview")
@click.argument("source", metavar="FILE|URL")
@click.option(
    "--label", metavar="NAME", default="", help="The server's name in tool names; it counts for their length."
)
@click.option("--include", metavar="PATTERN", multiple=True, help="As include_tools: a name, tag:X, op:ID, 'GET /x/*'.")
@click.option("--exclude", metavar="PATTERN", multiple=True, help="As exclude_tools.")
@json_option
def preview(source: str, label: str, include: tuple[str, ...], exclude: tuple[str, ...], as_json: bool) -> int:
    """Print the tools of an OpenAPI document, about how many tokens each costs a host, and every operation that cannot
    be one, with the reason. Nothing is called, and nothing is kept.
    """
    from moltis.rest.document import read
    from moltis.rest.operations import Wanted, plan

    document = read(_fetched(source), source)
    planned = plan(document, label=label, wanted=Wanted(include, exclude))
    if as_json:
        screen.data_json(_as_json(document.title, document.servers, planned))
        return ExitCode.OK
    _show(document.title or source, document.servers, planned)
    return ExitCode.OK


def _fetched(source: str) -> bytes:
    if source.lower().startswith(("http://", "https://")):
        return _from_url(source)
    from moltis.rest.document import MAX_BYTES

    try:
        with open(source, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error


def _from_url(url: str) -> bytes:
    import anyio

    from moltis.http.addresses import Scope
    from moltis.http.fetch import Fetcher, FetchProblem
    from moltis.http.origins import shown_host
    from moltis.rest.document import MAX_BYTES

    async def fetch() -> bytes:
        # Whoever types an address means it, wherever it is.
        fetcher = Fetcher(None, frozenset(Scope), total_secs=FETCH_SECS, max_bytes=MAX_BYTES)
        answer = await fetcher.get(url, {"Accept": "application/json, application/yaml;q=0.9, */*;q=0.5"})
        if answer.status != 200:
            raise ConfigError(f"{shown_host(url)} answers HTTP {answer.status}", hint="look at it in a browser")
        return answer.body

    try:
        return anyio.run(fetch)
    except FetchProblem as problem:
        raise ConfigError(f"cannot fetch the document: {problem.message}") from problem


def _tokens(listed: bytes) -> int:
    return -(-len(listed) // CHARS_PER_TOKEN)


def _as_json(title: str, servers: tuple[str, ...], planned: Plan) -> dict[str, Any]:
    costs = [_tokens(each.listed()) for each in planned.tools]
    tools = [
        {"tool": each.tool, "method": each.method, "path": each.path, "tokens": cost}
        for each, cost in zip(planned.tools, costs, strict=True)
    ]
    left_out = [{"method": e.method, "path": e.path, "operation": e.id, "reason": e.reason} for e in planned.left_out]
    return {"title": title, "servers": list(servers), "tools": tools, "tokens": sum(costs), "left_out": left_out}


def _show(title: str, servers: tuple[str, ...], planned: Plan) -> None:
    costs = [_tokens(each.listed()) for each in planned.tools]
    rows = [(each.tool, f"{each.method} {each.path}", str(n)) for each, n in zip(planned.tools, costs, strict=True)]
    _table(("TOOL", "OPERATION", "TOKENS"), rows, shrink=1)
    if planned.left_out:
        screen.data()
        _table(("NO TOOL", "WHY"), [(f"{e.method} {e.path}", e.reason) for e in planned.left_out], shrink=0)
    where = f" at {servers[0]}" if servers else ", which does not say where it is served"
    count = "1 tool" if len(costs) == 1 else f"{len(costs)} tools"
    cost = f"about {sum(costs):,} tokens"
    screen.talk(screen.one_line(f"{title}{where}: {count}, {cost}; {len(planned.left_out)} left out"))


def _table(header: tuple[str, ...], rows: Sequence[Sequence[str]], *, shrink: int) -> None:
    cells = [[screen.one_line(cell) for cell in row] for row in rows]
    for line in table.render(header, cells, width=screen.width(), shrink=shrink, colour=screen.coloured()):
        screen.data(line)
