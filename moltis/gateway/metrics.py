"""What is counted, and how Prometheus reads it.

Counting is on the path of every request, so it is our own and little: two look-ups and a bisection. No label is as long
or as varied as a host likes; what is not known, not printable, or too much, is counted under a word of ours.

Names and buckets are those of OpenTelemetry's semantic conventions for MCP, which Prometheus spells with underscores.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from moltis.server.states import State
from moltis.server.status import ServerStatus

if TYPE_CHECKING:
    from prometheus_client import Metric


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.render` gives."""

BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Upper bounds in seconds: those of `mcp.server.operation.duration`, and three below for servers on this machine."""

METHODS: Final = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tasks/cancel",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tasks/update",
        "tools/call",
        "tools/list",
    }
)
"""The methods that are counted by their names."""

OTHER_METHOD: Final = "_OTHER"
"""What OpenTelemetry calls a name that is not well known."""

OTHER_TOOL: Final = "other"
OK: Final = "ok"

MAX_TOOLS: Final = 500
MAX_SERIES: Final = 5000
MAX_LABEL: Final = 128
"""Characters. MCP 2025-11-25 and later has tool names of at most 128."""

SERIES_LABELS: Final = ("mcp_method_name", "moltis_server", "error_type")


class _Series:
    """One histogram. The last of `counts` is of what is above all bounds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def cumulated(self) -> list[tuple[str, float]]:
        return list(zip(_BOUNDS, accumulate(self.counts), strict=True))


class _Tool:
    """The calls of one tool."""

    __slots__ = ("calls", "errors", "total")

    def __init__(self) -> None:
        self.calls = 0
        self.total = 0.0
        self.errors: dict[str, int] = {}


class Metrics:
    """The counters of one daemon, since its start. Nothing here blocks, raises or imports anything until `render`.

    is_listed: whether a server lists a tool of that name; any other name is whatever a host made up. Asked once a tool.
    """

    def __init__(self, is_listed: Callable[[str, str], bool] = lambda server, tool: True) -> None:
        self._is_listed = is_listed
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._tools: dict[tuple[str, str], _Tool] = {}

    def observe(self, method: str, server: str, tool: str | None, secs: float, outcome: str) -> None:
        """Count a request that has ended.

        method: as the host sent it. server: a server of moltis.toml. tool: its own name for it, for `tools/call`.
        outcome: "ok", or what went wrong, one of a few words of ours (`tool_error` for a result with `isError`).
        """
        series = self._series.get((method, server, outcome))
        if series is None:
            series = self._new_series(method, server, outcome)
        series.counts[bisect_left(BUCKETS, secs)] += 1
        series.total += secs
        if tool is not None:
            counted = self._tools.get((server, tool))
            if counted is None:
                counted = self._new_tool(server, tool)
            counted.calls += 1
            counted.total += secs
            if outcome != OK:
                counted.errors[outcome] = counted.errors.get(outcome, 0) + 1

    def render(self, servers: Iterable[ServerStatus], sessions: int, in_flight: int, version: str) -> bytes:
        """Return everything in Prometheus' text format 0.0.4.

        sessions: hosts that are connected. in_flight: requests of hosts that wait for their reply.

        Takes about a millisecond for a hundred lines, so with many servers it belongs into a worker thread, where it
        may run while `observe` goes on; `servers` is then a list made on the event loop.
        """
        from prometheus_client import generate_latest
        from prometheus_client.registry import Collector

        metrics = [
            *self._counted(),
            *_of_servers(list(servers)),
            *_of_the_endpoint(sessions, in_flight, version),
            *_of_the_process(),
        ]

        class Read(Collector):
            def collect(self) -> Iterable[Metric]:
                return metrics

        return generate_latest(Read())

    def _new_series(self, method: str, server: str, outcome: str) -> _Series:
        if method not in METHODS:
            method = OTHER_METHOD
        if len(self._series) >= MAX_SERIES:
            server = ""
        return self._series.setdefault((method, server, outcome), _Series())

    def _new_tool(self, server: str, tool: str) -> _Tool:
        full = len(self._tools) >= MAX_TOOLS
        if full or len(tool) > MAX_LABEL or not tool.isprintable() or not self._is_listed(server, tool):
            server, tool = "", OTHER_TOOL
        return self._tools.setdefault((server, tool), _Tool())

    def _counted(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily

        durations = HistogramMetricFamily(
            "mcp_server_operation_duration_seconds",
            "Requests of hosts to servers, from their arrival to their reply; error_type is empty where it was well.",
            labels=SERIES_LABELS,
        )
        for (method, server, outcome), series in list(self._series.items()):
            durations.add_metric([method, server, _error_type(outcome)], series.cumulated(), series.total)
        yield durations

        labels = ("server", "tool")
        calls = CounterMetricFamily("moltis_mcp_tool_calls", "Tool calls that have ended.", labels=labels)
        took = SummaryMetricFamily("moltis_mcp_tool_call_duration_seconds", "How long they took.", labels=labels)
        errors = CounterMetricFamily(
            "moltis_mcp_tool_call_errors", "Those that did not end well.", labels=(*labels, "error_type")
        )
        for (server, tool), counted in list(self._tools.items()):
            where = (server, _utf8(tool))
            calls.add_metric(where, counted.calls)
            took.add_metric(where, count_value=counted.calls, sum_value=counted.total)
            for outcome, number in list(counted.errors.items()):
                errors.add_metric((*where, outcome), number)
        yield from (calls, took, errors)


def _of_servers(servers: Sequence[ServerStatus]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    up = GaugeMetricFamily("moltis_mcp_server_up", "1: the server is ready.", labels=("server",))
    state = GaugeMetricFamily("moltis_mcp_server_state", "1: it is in this state.", labels=("server", "state"))
    restarts = CounterMetricFamily(
        "moltis_mcp_server_restarts", "How often it was started again by itself.", labels=("server",)
    )
    heartbeat = GaugeMetricFamily(
        "moltis_mcp_server_heartbeat_seconds", "How long its last heartbeat took.", labels=("server",)
    )
    for server in servers:
        up.add_metric((server.name,), server.state == State.READY)
        for each in State:
            state.add_metric((server.name, each.value), server.state == each)
        restarts.add_metric((server.name,), server.restarts)
        if server.heartbeat_latency_ms is not None:
            heartbeat.add_metric((server.name,), server.heartbeat_latency_ms / 1000)
    yield from (up, state, restarts, heartbeat)


def _of_the_endpoint(sessions: int, in_flight: int, version: str) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    yield GaugeMetricFamily("moltis_gateway_sessions", "Hosts that are connected.", value=sessions)
    yield GaugeMetricFamily(
        "moltis_gateway_requests_in_flight", "Requests of hosts that wait for their reply.", value=in_flight
    )
    build = GaugeMetricFamily("moltis_build_info", "1, and which moltis this is.", labels=("version",))
    build.add_metric((version,), 1)
    yield build


def _of_the_process() -> Iterable[Metric]:
    """Return the daemon's own memory, processor time and open files, where the system has /proc."""
    from prometheus_client import ProcessCollector

    try:
        return list(ProcessCollector(registry=None).collect())
    except ValueError:  # it takes every limit for a number, and "unlimited" is none
        return ()


def _error_type(outcome: str) -> str:
    return "" if outcome == OK else outcome


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which no encoder takes."""
    return text.encode("utf-8", "replace").decode()


_BOUNDS: Final = (*(str(float(bound)) for bound in BUCKETS), "+Inf")
