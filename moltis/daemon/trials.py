"""One try of a server, of which nothing is kept: `mcp.test`."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import msgspec
from msgspec.structs import replace

from moltis.config.limits import Limits
from moltis.config.plan import ServerPlan
from moltis.errors import MoltisError
from moltis.operations.api import Tried
from moltis.printable import one_line
from moltis.sdk.messages import Found
from moltis.server import mending
from moltis.server.states import FailureKind
from moltis.server.status import LastError
from moltis.server.working import LOOKS, WorkMeter, window_secs
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed
from moltis.session.facts import last_words
from moltis.session.listing import Kind
from moltis.session.requests import SCRUBBED_CHARS, TOLD_CHARS
from moltis.session.session import Session
from moltis.transport import Effort, Ended

_NAMES = {
    Kind.TOOLS: "tools",
    Kind.RESOURCES: "resources",
    Kind.TEMPLATES: "resource_templates",
    Kind.PROMPTS: "prompts",
}


class _FirstNews:
    """Hears of a session's life only whether it became ready."""

    def __init__(self) -> None:
        self.ready = anyio.Event()

    def opened(self, pid: int | None = None) -> None:
        """Of no interest to a try."""

    def initialized(self) -> None:
        self.ready.set()

    def alive(self, latency_secs: float, *, otherwise: bool = False) -> None:
        """Of no interest to a try."""

    def unsent(self) -> None:
        """Of no interest to a try."""


class Trial(msgspec.Struct, frozen=True):
    """What came of one try; `found`: everything that was listed, None where it failed."""

    tried: Tried
    found: Found | None = None


async def try_once(plan: ServerPlan, make_session: Callable[[ServerPlan, _FirstNews], Session]) -> Trial:
    """Start a server, list its tools, and end it again; bounded by its startup timeout and its stop deadlines."""
    if plan.problem is not None:
        return Trial(Tried(ok=False, error=plan.problem))
    news = _FirstNews()
    session = make_session(plan, news)
    trial: Trial | None = None
    ended: list[Ended] = []
    started = anyio.current_time()

    async def live() -> None:
        ended.append(await session.run())
        news.ready.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        in_time = await ready_in_time(news.ready, session.effort, plan.limits)
        if in_time and not ended:
            trial = _succeeded(session, round((anyio.current_time() - started) * 1000, 1))
        took = anyio.current_time() - started
        session.stop()
    if trial is not None:
        return trial
    failed = ended[0]
    if not in_time:
        failed = replace(failed, kind=FailureKind.STARTUP_TIMEOUT, message=f"not ready within {took:.3g} s")
    return Trial(Tried(ok=False, error=in_words(failed), hints=_hints(plan, failed)))


async def ask_running(plan: ServerPlan, session: Session, scrub: Callable[[str], str]) -> Tried:
    """Ask a server that is ready for what it is sure to have; its own timeout for requests bounds it."""
    facts, started = session.facts(), anyio.current_time()
    offered = session.agreed.capabilities
    method = next((kind.method for kind in Kind if kind.capability in offered), Kind.TOOLS.method)
    error = None
    try:
        reply = await session.request(method)
    except MoltisError as fault:
        error = fault.message
    else:
        if isinstance(reply, Failed):
            error = reply.error.message
        elif isinstance(reply, ErrorReply) and offered:
            refusal = envelope.read_error(reply.raw)
            error = f"{method} was answered with {one_line(scrub(refusal.words[:SCRUBBED_CHARS]))[:TOLD_CHARS]}"
    hint = f"moltis mcp restart {plan.name}    (if it is not just busy with a request)"
    return Tried(
        ok=error is None,
        protocol_version=facts.protocol_version,
        server_info=facts.server_info,
        tool_count=facts.tool_count,
        resource_count=facts.resource_count,
        resource_template_count=len(session.items(Kind.TEMPLATES)),
        prompt_count=facts.prompt_count,
        latency_ms=round((anyio.current_time() - started) * 1000, 1),
        running=True,
        error=error,
        hints=[] if error is None else [hint],
    )


def _succeeded(session: Session, latency_ms: float) -> Trial:
    facts = session.facts()
    listed = {_NAMES[kind]: [item.name for item in session.items(kind)] for kind in Kind}
    tried = Tried(
        ok=True,
        protocol_version=facts.protocol_version,
        server_info=facts.server_info,
        tool_count=facts.tool_count,
        resource_count=facts.resource_count,
        resource_template_count=len(listed["resource_templates"]),
        prompt_count=facts.prompt_count,
        latency_ms=latency_ms,
    )
    found = Found(protocol_version=facts.protocol_version, server_info=facts.server_info, lists=listed)
    return Trial(tried, found)


async def ready_in_time(news: anyio.Event, effort: Callable[[], Effort], limits: Limits) -> bool:
    """Return whether there was news within the startup timeout, which is extended while the start works."""
    window = window_secs(limits.startup_timeout_secs)
    meter = WorkMeter(window)
    now = anyio.current_time()
    until, at_most = now + limits.startup_timeout_secs, now + limits.startup_timeout_max_secs
    while now < until:
        with anyio.move_on_at(min(until, now + window / LOOKS)):
            await news.wait()
            return True
        now = anyio.current_time()
        if meter.look(now, effort()):
            until = max(until, min(at_most, now + window))
    return False


def _hints(plan: ServerPlan, ended: Ended) -> list[str]:
    """Return what `moltis why` would say of such a failure."""
    error = LastError(
        kind=ended.kind,
        message=ended.message,
        at="",
        exit_code=ended.exit_code,
        stderr_tail=list(ended.stderr_tail),
        stdout=ended.stdout or None,
    )
    return mending.hints(plan.name, plan.shown, error, plan.transport)


def in_words(ended: Ended) -> str:
    """Say how a server ended before it was ready, with its last words."""
    tail = last_words(ended.stderr_tail)
    said = f"; its last words: {tail}" if tail else ""
    return ended.message + (f"; {ended.stdout}" if ended.stdout else "") + said
