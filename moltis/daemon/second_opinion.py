"""What the official SDK's client makes of a server, beside what moltis does: `moltis mcp test --sdk`.

The SDK runs in a process of its own, which the warden starts like a server: it and the server that it starts are
bounded by the same deadlines, its output is kept free of secrets, and nothing of it is left behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable

import anyio
import msgspec

from moltis.config.plan import RemoteLaunch, ServerPlan, StdioLaunch
from moltis.daemon.trials import Trial, in_words, ready_in_time
from moltis.errors import MoltisError
from moltis.operations.api import Tried, TriedBySdk
from moltis.printable import one_line
from moltis.redaction import scrubbed
from moltis.sdk.messages import Answer, Ask, AskLocal, AskRemote, Found, differences
from moltis.session.listing import ToolFilter
from moltis.transport import OpenFailed, Transport
from moltis.transport.stdio import child_environment, own_folder

PROGRAM = ("-P", "-m", "moltis.sdk.client")
"""-P: what lies in the folder that it is started in is not taken for a module."""
WHERE_MODULES_ARE = "PYTHONPATH"
MAX_ERROR_CHARS = 500


class NotAsked(Exception):
    """The SDK had no chance to try the server: it is not there, or its process could not be started."""


async def second_opinion(
    plan: ServerPlan,
    trial: Trial,
    held: Callable[[], Awaitable[str | None]],
    transport: Callable[[StdioLaunch], Transport],
    scrub: Callable[[str], str],
) -> Tried:
    """Have the SDK try a server that moltis has just tried, and return both with their differences.

    held: gives the Authorization header of its login. transport: starts a local program as the servers are started.
    """
    try:
        sdk, found = await ask_sdk(plan, question(plan, await held()), transport(program()), scrub)
    except MoltisError as error:
        return msgspec.structs.replace(trial.tried, sdk=TriedBySdk(ok=False, error=error.message))
    except NotAsked as problem:
        return msgspec.structs.replace(trial.tried, sdk=TriedBySdk(ok=False, error=str(problem)))
    differ = differences(trial.found, found, local=plan.kind.is_program)
    return msgspec.structs.replace(trial.tried, sdk=sdk, differences=differ)


def program() -> StdioLaunch:
    """Return how the process with the SDK is started; it finds moltis and the SDK where this process did."""
    own = os.environ.get(WHERE_MODULES_ARE)
    return StdioLaunch(sys.executable, PROGRAM, ((WHERE_MODULES_ARE, own),) if own else (), "/")


def question(plan: ServerPlan, authorization: str | None) -> Ask:
    """Return what is to be asked, from the same entry as the daemon's own try.

    authorization: the header of the login that there is, if there is one.
    """
    launch = plan.launch
    legacy = plan.protocol not in ("auto", "2026-07-28")
    elicits = plan.elicitation == "defaults"
    timeout = plan.limits.request_timeout_secs
    if isinstance(launch, StdioLaunch):
        return AskLocal(
            command=launch.command,
            args=list(launch.args),
            env=child_environment(os.environ, launch.env),
            cwd=launch.cwd or own_folder(),
            legacy=legacy,
            elicits=elicits,
            request_timeout_secs=timeout,
        )
    if not isinstance(launch, RemoteLaunch):
        raise NotAsked(f"the SDK has no way to {plan.kind.described}")
    headers = list(launch.headers)
    if authorization is not None:
        headers = [(name, value) for name, value in headers if name.lower() != "authorization"]
        headers.append(("Authorization", authorization))
    return AskRemote(
        url=launch.url,
        headers=headers,
        ca_file=launch.ca_file,
        proxy=None if launch.way is None else launch.way.proxy.url,
        falls_back=plan.kind.falls_back,
        legacy=legacy,
        elicits=elicits,
        request_timeout_secs=timeout,
    )


class _Process:
    """Hears what the process with the SDK says, which is one line."""

    def __init__(self) -> None:
        self.line: bytes | None = None
        self.news = anyio.Event()

    def receive(self, message: bytes, during: int | None = None) -> bool:
        if self.line is None:
            self.line = message
            self.news.set()
        return True

    def request_failed(self, id: int, error: Exception, *, sent: bool = True) -> None:
        """Nothing is asked of it by number."""

    def waits_for(self, id: int) -> bool:
        return False

    def heard(self) -> None:
        """It is a process, and is there for as long as it runs."""

    def missed(self) -> None:
        """It announces nothing."""

    def odd(self, words: str) -> None:
        """What it says is looked at where it is decoded."""

    def busy_until(self) -> float:
        return 0.0


async def ask_sdk(
    plan: ServerPlan, ask: Ask, transport: Transport, scrub: Callable[[str], str]
) -> tuple[TriedBySdk, Found | None]:
    """Have the process of this transport answer, bounded as a start of the server is; nothing of it is left.

    Raises:
        NotAsked: the server was not asked.
    """
    process = _Process()
    try:
        connection = await transport.open(process.receive, process)
    except OpenFailed as failure:
        raise NotAsked(f"the process with the SDK did not start: {failure.ended.message}") from None

    async def live() -> None:
        await connection.wait_lost()
        process.news.set()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            connection.send(msgspec.json.encode(ask))
            started = anyio.current_time()
            in_time = await ready_in_time(process.news, connection.effort, plan.limits)
            took = anyio.current_time() - started
            tasks.cancel_scope.cancel()
        connection.stop()
        ended = await connection.wait_closed()
    except BaseException:
        connection.kill()
        with anyio.CancelScope(shield=True):  # bounded: a killed connection is gone in a moment
            await connection.wait_closed()
        raise
    if process.line is None:
        return TriedBySdk(ok=False, error=in_words(ended) if in_time else f"not ready within {took:.3g} s"), None
    return _told(process.line, ended.stderr_tail, ToolFilter(plan.include_tools, plan.exclude_tools), scrub)


def _told(
    line: bytes, said: tuple[str, ...], wanted: ToolFilter, scrub: Callable[[str], str]
) -> tuple[TriedBySdk, Found | None]:
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.MsgspecError:
        raise NotAsked("a fault of moltis: what the process with the SDK answered is not understood") from None
    if answer.trouble == "missing":
        raise NotAsked(answer.error or "there is no SDK")
    found = answer.found
    if found is None:
        tail = " | ".join(one_line(words) for words in said[-3:])
        error = scrub(one_line(answer.error or "it failed")[:MAX_ERROR_CHARS])
        if tail:
            error += f"; its last words: {tail}"
        return TriedBySdk(ok=False, error=error, sdk_version=answer.sdk_version), None
    lists = {**found.lists, "tools": [tool for tool in found.lists.get("tools", ()) if wanted.allows(tool)]}
    found = msgspec.structs.replace(
        found, lists=scrubbed(lists, scrub, keys=False), server_info=scrubbed(found.server_info, scrub)
    )
    return (
        TriedBySdk(
            ok=True,
            protocol_version=found.protocol_version,
            server_info=found.server_info,
            tool_count=len(lists["tools"]),
            resource_count=len(lists.get("resources", ())),
            resource_template_count=len(lists.get("resource_templates", ())),
            prompt_count=len(lists.get("prompts", ())),
            latency_ms=found.latency_ms,
            note=found.note,
            sdk_version=answer.sdk_version,
        ),
        found,
    )
