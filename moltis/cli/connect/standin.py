"""What stands in for the daemon while there is none: its own gateway, over what the servers listed when last ready.

Imported only when it is needed: it costs more memory and time than all the rest of `moltis connect`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from moltis.config.load import load
from moltis.errors import MoltisError
from moltis.gateway import messages
from moltis.gateway.api import LOCAL, Known
from moltis.gateway.gateway import Gateway
from moltis.gateway.introduction import MAX_CHARS
from moltis.gateway.known import KnownStore
from moltis.gateway.messages import Ask, Tell, Unreadable
from moltis.gateway.naming import fitted_chars
from moltis.gateway.showing import Showing, ShownServer, as_shown, showing_of
from moltis.gateway.views import ALL, Project, Settings, path_of
from moltis.paths import Paths
from moltis.server.states import STATUS, State
from moltis.server.status import ServerStatus
from moltis.session.face import Face
from moltis.session.listing import ToolFilter


class StandIn:
    """Answers what the daemon would answer from memory. `wanted`: what the host is to see, as `mcp.connect` takes it.

    introduction: the host's `initialize`, if it has sent one: what it gets is valid in the revision that it speaks.
    notice: what its model should know, said before all that is said of the use of servers.
    """

    def __init__(
        self, paths: Paths, wanted: Mapping[str, str], introduction: bytes | None = None, notice: str = ""
    ) -> None:
        store = KnownStore(paths.known_dir)
        showing = as_shown(_by_config(paths), store.showing())
        shown = {each.name: each for each in showing.servers}
        server, project = wanted.get("server"), wanted.get("project")
        projects = showing.projects
        if server is not None:  # the daemon may know it, whatever stands in the file
            shown.setdefault(server, ShownServer(server, ""))
        if project is not None and all(project != each.name for each in projects):
            projects = (*projects, Project(project))
        marks = {each.name: each.mark for each in shown.values()}
        known = {name: found for name, (mark, found) in store.read_all().items() if marks.get(name) == mark}
        self._notice = notice
        self._introduction = introduction
        settings = Settings(
            separator=showing.separator,
            name_chars=fitted_chars(showing.name_chars),
            labels=tuple((each.name, each.label) for each in shown.values() if each.label is not None),
            projects=projects,
        )
        self._gateway = Gateway(_World(shown, known), settings)
        self._path = path_of(server, project)
        if self._path == ALL and "folder" in wanted:
            self._path = self._gateway.path_in(wanted["folder"])

    def answer(self, line: bytes) -> list[bytes]:
        """Return what the host is answered, the reply last; of `subscriptions/listen` the reply is left open."""
        ask = messages.parse(line)
        if isinstance(ask, Unreadable):
            return [messages.error(ask.id, ask.code, ask.reason)]
        assert isinstance(ask, Ask)
        outlet = _Lines()
        host = self._gateway.new_host(self._path, LOCAL, lambda _message: False)
        if ask.method == "initialize":
            self._introduction = line
        elif self._introduction is not None and not ask.is_modern:
            introduced = messages.parse(self._introduction)
            assert isinstance(introduced, Ask)
            host.request(introduced, _Lines())
            host.notification(Tell("notifications/initialized", {}))
        host.request(ask, outlet)
        host.close()
        if self._notice and ask.method in ("initialize", "server/discover"):
            return [*outlet.lines[:-1], _with_notice(outlet.lines[-1], self._notice)]
        return outlet.lines


def _with_notice(reply: bytes, notice: str) -> bytes:
    """Return the reply with the notice in front of its instructions; an error as it is."""
    members = msgspec.json.decode(reply, type=dict[str, msgspec.Raw])
    if "result" not in members:
        return reply
    result = msgspec.json.decode(members["result"], type=dict[str, msgspec.Raw])
    said = messages.text_of(result, "instructions")
    told = f"{notice}\n\n{said}" if said else notice
    result["instructions"] = msgspec.Raw(msgspec.json.encode(told[:MAX_CHARS]))
    return msgspec.json.encode({**members, "result": result})


class _Lines:
    """Takes what a request is answered; fits `Outlet`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def tell(self, message: bytes) -> bool:
        self.lines.append(message)
        return True

    def can_ask(self) -> bool:
        return False

    def reply(self, message: bytes, status: int = 200) -> None:
        self.lines.append(message)


class _Port:
    """A server that cannot be had; fits `gateway.api.ServerPort`."""

    def __init__(self, shown: ShownServer, known: Known | None) -> None:
        self.name = shown.name
        self._shown = shown
        self._known = known
        self._filter = ToolFilter(shown.include, shown.exclude)

    def upstream(self) -> None:
        return None

    def state(self) -> State:
        if not self._shown.enabled:
            return State.DISABLED
        return (
            State.INVALID if self._shown.invalid else State.BACKOFF
        )  # it is tried again, as soon as there is a daemon

    def status(self) -> ServerStatus:
        shown = self._shown
        return ServerStatus(
            name=shown.name,
            display_name=shown.display_name,
            transport=shown.transport,
            enabled=shown.enabled,
            state=self.state(),
            status=STATUS[State.STOPPED],
        )

    def known(self) -> Known | None:
        return self._known

    def allows(self, tool: str) -> bool:
        return self._filter.allows(tool)

    def wakes(self) -> bool:
        return False

    def hold(self) -> None:
        pass

    def release(self) -> None:
        pass

    async def wait_settled(self) -> None:
        return

    async def wait_up(self) -> None:
        return

    def start_secs(self) -> float:
        return 0.0


class _World:
    """All of them; fits `gateway.api.World`."""

    def __init__(self, shown: dict[str, ShownServer], known: dict[str, Known]) -> None:
        self._ports = {name: _Port(each, known.get(name)) for name, each in shown.items()}

    def ports(self) -> Sequence[_Port]:
        return list(self._ports.values())

    def port(self, name: str) -> _Port:
        return self._ports[name]

    def split(self) -> frozenset[str]:
        return frozenset()

    def begin_instance(self, server: str, face: Face) -> _Port:
        raise RuntimeError("there are no instances without a daemon")

    def outlives(self, name: str) -> bool:
        return False

    def end_instance(self, name: str) -> None:
        raise RuntimeError("there are no instances without a daemon")

    def change_face(self, name: str, face: Face) -> None:
        raise RuntimeError("there are no instances without a daemon")

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        raise RuntimeError("there is nothing to wait for")


def _by_config(paths: Paths) -> Showing | None:
    try:
        return showing_of(load(paths.config, {}, os.environ).plan)
    except (MoltisError, OSError):
        return None
