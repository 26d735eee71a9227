"""What can be asked of one server once it is ready, on behalf of whom: the control socket, or a host of the gateway.

A request has one outcome, which is what the server sent or why there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import anyio
from msgspec import Raw

from moltis import __version__, jsonrpc
from moltis.config.plan import ServerPlan
from moltis.errors import MoltisError, ServerNotReady, UsageError
from moltis.printable import one_line
from moltis.server.states import State
from moltis.session import elicitation, envelope
from moltis.session.calls import Caller, Failed, OnReply, Reply, Result
from moltis.session.dialogue import CallHandle, Dialogue
from moltis.session.face import Face
from moltis.session.handshake import Agreed
from moltis.session.listing import Headers, Item, Kind, Offer, ToolFilter, with_server, without_secrets
from moltis.session.lists import Lists
from moltis.session.passing import Passing
from moltis.session.questions import NOBODY, RELAYED

MAX_ROUNDS = 10

Ask = Callable[[bytes, OnReply], CallHandle]
"""Sends the request with these further members of `params` (JSON members, or nothing). Raises MoltisError."""


class Rounds:
    """One request, however often it is asked; cancelled as a whole."""

    def __init__(self, ask: Ask, on_reply: OnReply) -> None:
        self._ask = ask
        self._on_reply = on_reply
        self._left = MAX_ROUNDS
        self._handle = ask(b"", self._replied)

    def cancel(self, reason: str = "the caller went away") -> None:
        """Tell the server to stop; the outcome is not delivered any more."""
        self._handle.cancel(reason)

    def _replied(self, reply: Reply) -> None:
        answers = elicitation.input_responses(reply.raw) if isinstance(reply, Result) and self._left else None
        if answers is None:
            self._on_reply(reply)
            return
        self._left -= 1
        named = zip((b"inputResponses", b"requestState"), answers, strict=True)
        members = [b'"%b":%b' % (name, value) for name, value in named if value is not None]
        try:
            self._handle = self._ask(b",".join(members), self._replied)
        except MoltisError as error:
            self._on_reply(Failed(error))


CLIENT_INFO: Final = b'{"name":"moltis","version":%b}' % jsonrpc.json_string(__version__)

RELAYS: Final = {
    "sampling": b'{"context":{},"tools":{}}',
    "elicitation": b'{"form":{},"url":{}}',
    "roots": b'{"listChanged":true}',
}
"""What we say to a server up to 2025-11-25 when hosts are behind us; those of later ones say it with each request."""

SCRUBBED_CHARS: Final = 8192
TOLD_CHARS: Final = 500
"""Of what is said of a server; what it says itself may be as long as a message."""

_READY: Final = State.READY
"""Looked up once: a member of an enumeration is reached by a call in Python 3.11, and this is asked at each request."""


class Requests:
    """The part of a session that asks. `dialogue` carries it; `on_lists_changed` as for `lists.Lists`, `scrub` as for
    `hooks.Hooks`.
    """

    def __init__(
        self,
        name: str,
        plan: ServerPlan,
        dialogue: Dialogue,
        on_lists_changed: Callable[[frozenset[Kind]], None],
        scrub: Callable[[str], str],
        face: Face | None = None,
    ) -> None:
        self.name = name
        self.face = face
        """Of its only host, where there is but one."""
        self._dialogue = dialogue
        self._scrub = scrub
        self._state = State.STARTING
        self._agreed: Agreed | None = None
        self._passing: Passing | None = None
        self._lists = Lists(self._ask, on_lists_changed, dialogue.counters)
        self.reconfigure(plan)

    def reconfigure(self, plan: ServerPlan) -> None:
        """Take new limits and filters; they hold for what comes next."""
        self._limits = plan.limits
        self._idle_secs, self._most_secs = self._times(None)
        self._protocol = plan.protocol
        self._elicits = plan.elicitation == "defaults"
        self._undeclared = plan.undeclared
        self._kind = plan.kind
        self._filter = ToolFilter(plan.include_tools, plan.exclude_tools)
        self._offer: Offer | None = None

    @property
    def agreed(self) -> Agreed:
        """What the server said of itself.

        Raises:
            ServerNotReady: nothing is agreed on yet.
        """
        if self._agreed is None:
            raise self._not_ready()
        return self._agreed

    # --- what the connection notices (`transport.Notices`)

    def request_failed(self, id: int, error: MoltisError, *, sent: bool = True) -> None:
        """Fail one request; the heartbeat decides whether the server is at fault."""
        error.message = self._clean(error.message)
        self._dialogue.fail(id, error, sent=sent)

    def waits_for(self, id: int) -> bool:
        """Return whether a request has neither a reply nor a failure yet."""
        return self._dialogue.waits_for(id)

    def heard(self) -> None:
        """Take note that the server answered by something that is no message."""
        self._dialogue.heard()

    def busy_until(self) -> float:
        """Return until when a request under way is waited for, by the same rule as the heartbeat."""
        return self._dialogue.busy_until()

    # --- what is offered

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Return a list as the server sent it, less the tools that are filtered out."""
        return self._tools().items if kind is Kind.TOOLS else self._lists.items(kind)

    def listed_all(self, kind: Kind) -> tuple[Item, ...]:
        """Return a list as the server sent it, with the tools that are filtered out."""
        return self._lists.items(kind)

    def listed(self, kind: Kind, server: str) -> Iterator[bytes]:
        """Return a list as JSON objects, each with `"server": server` as its first member, and without secrets."""
        name = jsonrpc.json_string(server)
        return (with_server(item, name) for item in without_secrets(self.items(kind), self._scrub))

    def _tools(self) -> Offer:
        listed = self._lists.items(Kind.TOOLS)
        if self._offer is None or self._offer.listed is not listed:
            modern = self._agreed is not None and self._agreed.era == "modern"
            self._offer = Offer(listed, self._filter, mirrored=self._kind.mirrors_headers and modern)
        return self._offer

    # --- requests

    def call_tool(
        self, tool: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle | Rounds:
        """Call a tool. `on_reply` gets the outcome, once, unless the call is cancelled.

        arguments: a well-formed JSON object, sent byte for byte.
        timeout_secs: without reply or progress; None for the configured `request_timeout_secs`.

        Raises:
            ServerNotReady: nothing was sent.
            UsageError: the tool is filtered out.
        """
        self._check_ready()
        self._check_allowed(tool)
        headers = self._tools().headers(tool, arguments) if self._kind.mirrors_headers else ()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.call_params(tool, arguments, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "tools/call", params, timeout_secs, on_reply, tool, tool=tool, mirrored=headers)

        return self._ask_in_rounds(ask, on_reply)

    def get_prompt(
        self, name: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle | Rounds:
        """Get a prompt. Arguments, outcome and errors as for `call_tool`."""
        self._check_ready()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.call_params(name, arguments, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "prompts/get", params, timeout_secs, on_reply, name)

        return self._ask_in_rounds(ask, on_reply)

    def read_resource(self, uri: str, timeout_secs: float | None, on_reply: OnReply) -> CallHandle | Rounds:
        """Read a resource. Outcome and errors as for `call_tool`."""
        self._check_ready()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.read_params(uri, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "resources/read", params, timeout_secs, on_reply, uri)

        return self._ask_in_rounds(ask, on_reply)

    def _ask_in_rounds(self, ask: Ask, on_reply: OnReply) -> CallHandle | Rounds:
        modern = self._agreed is not None and self._agreed.era == "modern"
        return Rounds(ask, on_reply) if self._elicits and modern else ask(b"", on_reply)

    async def request(self, method: str, params: bytes = b"{}", timeout_secs: float | None = None) -> Reply:
        """Send any request and wait for its outcome; being cancelled cancels it upstream. Errors as for `call_tool`."""
        self._check_ready()
        return await self._wait(method, params, timeout_secs, token=True)

    def _send(
        self,
        id: int,
        method: str,
        params: bytes,
        timeout_secs: float | None,
        on_reply: OnReply,
        name: str | None = None,
        *,
        tool: str | None = None,
        mirrored: Headers = (),
    ) -> CallHandle:
        idle, most = self._times(timeout_secs)
        self._dialogue.check_room()
        message = jsonrpc.request(id, method, params)
        return self._dialogue.send(id, method, message, on_reply, idle, most, tool, NOBODY, name, mirrored)

    def forward(
        self,
        method: str,
        params: dict[str, Raw],
        meta: dict[str, Raw],
        on_reply: OnReply,
        *,
        caller: Caller,
        name: str | None = None,
        tool: str | None = None,
    ) -> CallHandle:
        """Pass on a request of a host. `on_reply` gets the outcome, once, unless it is cancelled.

        params: its members but `_meta`, sent byte for byte.
        meta: the members of `_meta`, without those that the server's era does not have; the progress token is ours.
        caller: hears of progress and log messages, and is asked the server's questions about it.
        name: what it is about (`params.name`, `params.uri`), where there is such a thing.
        tool: the tool's own name, for `tools/call`.

        Raises:
            ServerNotReady: nothing was sent.
            UsageError: the tool is filtered out.
        """
        if self._state is not _READY or self._passing is None:
            raise self._not_ready()
        headers: Headers = ()
        if tool is not None:
            self._check_allowed(tool)
            if self._kind.mirrors_headers:
                arguments = params.get("arguments")
                headers = self._tools().headers(tool, None if arguments is None else bytes(arguments))
        dialogue = self._dialogue
        dialogue.check_room()
        id = dialogue.new_id()
        message = self._passing.request(id, method, params, meta)
        return dialogue.send(
            id, method, message, on_reply, self._idle_secs, self._most_secs, tool, caller, name, headers
        )

    def tell(self, method: str, params: bytes) -> None:
        """Pass on a notification. `params`: a JSON object, or nothing."""
        if self._state is _READY:
            self._dialogue.tell(method, params)

    def default_answer(self, method: str, params: bytes) -> bytes | None:
        """Answer a question of the server for a host that cannot, if `elicitation = "defaults"` says so."""
        return elicitation.answer(params) if self._elicits and method == "elicitation/create" else None

    def _clean(self, message: str) -> str:
        """Return what is said of a server as one printable line, without the secrets that the server may have repeated,
        and in few words.

        Cut twice, so that neither cut lets half a secret through. Scrubbed first: a secret may have several lines.
        """
        return one_line(self._scrub(message[:SCRUBBED_CHARS]))[:TOLD_CHARS]

    @property
    def _client_info(self) -> bytes:
        return CLIENT_INFO if self.face is None else self.face.client_info

    def _declared(self) -> bytes:
        """Return what a server of the older era is told that its hosts can, as JSON, less what it is not to know of."""
        if self.face is not None:
            return self.face.declared(self._undeclared)
        said = (b'"%b":%b' % (name.encode(), how) for name, how in RELAYS.items() if name not in self._undeclared)
        return b"{%b}" % b",".join(said)

    def _answerable(self) -> frozenset[str]:
        """Return the questions of which a server of the older era is told that its hosts can answer them."""
        if self.face is not None:
            declared = self.face.less(self._undeclared)
            return frozenset(method for method, name in RELAYED.items() if name in declared)
        return frozenset(method for method, name in RELAYED.items() if name not in self._undeclared)

    def _times(self, timeout_secs: float | None) -> tuple[float, float]:
        """Return idle and total seconds. Who asks for more than the cap has said how long it may take."""
        idle = self._limits.request_timeout_secs if timeout_secs is None else timeout_secs
        return idle, max(idle, self._limits.request_timeout_max_secs)

    def _check_allowed(self, tool: str) -> None:
        if not self._filter.allows(tool):
            raise UsageError(
                f"tool {tool!r} of server {self.name!r} is switched off",
                server=self.name,
                hint="see include_tools and exclude_tools in moltis.toml",
            )

    def _check_ready(self) -> None:
        if self._state is not _READY:
            raise self._not_ready()

    def _not_ready(self) -> ServerNotReady:
        told = "is not running" if self._state is State.STOPPED else f"is {self._state}"
        return ServerNotReady(
            f"server {self.name!r} {told}",
            server=self.name,
            state=self._state,
            hint=f"moltis why {self.name}",
        )

    async def _ask(self, method: str, params: bytes, patiently: bool) -> Reply:
        # A session that is begun anew is no start: nothing else would end its wait, and meanwhile no heartbeat is sent.
        is_a_start = patiently and self._state is State.INITIALIZING
        return await self._wait(method, params, math.inf if is_a_start else None, token=False)

    async def _wait(self, method: str, params: bytes, timeout_secs: float | None, *, token: bool) -> Reply:
        """Send a request of ours and wait for its outcome. Being cancelled cancels it upstream too.

        token: whether to send a progress token, which the server may use to say that it is still at work.
        """
        done = anyio.Event()
        outcome: list[Reply] = []

        def arrived(reply: Reply) -> None:
            outcome.append(reply)
            done.set()

        idle, most = self._times(timeout_secs)
        id = self._dialogue.new_id()
        params = envelope.with_meta(params, envelope.meta_members(self._dialogue.meta, id if token else None))
        handle = self._dialogue.ask(id, method, params, arrived, idle_secs=idle, max_secs=most)
        try:
            await done.wait()
        finally:
            handle.cancel()
        return outcome[0]

    def _ask_patiently(self, method: str, params: bytes, on_reply: OnReply) -> CallHandle:
        params = envelope.with_meta(params, self._dialogue.meta)
        return self._dialogue.ask(self._dialogue.new_id(), method, params, on_reply)

    def _tell_and_learn(self, method: str, params: bytes, on_reply: OnReply) -> CallHandle:
        idle, most = self._times(None)
        params = envelope.with_meta(params, self._dialogue.meta)
        return self._dialogue.ask(self._dialogue.new_id(), method, params, on_reply, idle_secs=idle, max_secs=most)
