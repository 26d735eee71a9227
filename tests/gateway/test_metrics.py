"""Counting, as a Prometheus that reads it would see it: the text is read back with the client library's own parser."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families

from moltis.gateway import metrics as metrics_module
from moltis.gateway.metrics import BUCKETS, CONTENT_TYPE, MAX_TOOLS, Metrics
from moltis.server.states import State
from moltis.server.status import ServerStatus

DURATION = "mcp_server_operation_duration_seconds"
CALLS = "moltis_mcp_tool_calls_total"

Read = dict[tuple[str, frozenset[tuple[str, str]]], float]


def server(name: str, state: str = "ready", **more: Any) -> ServerStatus:
    return ServerStatus(
        name=name, display_name=None, transport="stdio", enabled=True, state=state, status="connected", **more
    )


def read(metrics: Metrics, *servers: ServerStatus, sessions: int = 0, in_flight: int = 0) -> Read:
    """Give every sample by its name and labels; no sample is there twice."""
    text = metrics.render(servers, sessions, in_flight, "1.2.3").decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def of(method: str, server: str, error: str = "") -> dict[str, str]:
    return {"mcp_method_name": method, "moltis_server": server, "error_type": error}


def test_a_request_is_counted_in_every_bucket_that_holds_it() -> None:
    metrics = Metrics()
    for secs in (0.0005, 0.01, 0.0100001, 7.0, 1000.0):
        metrics.observe("resources/read", "files", None, secs, "ok")
    found = read(metrics)
    labels = of("resources/read", "files")
    expected = {bound: sum(s <= bound for s in (0.0005, 0.01, 0.0100001, 7.0, 1000.0)) for bound in BUCKETS}
    assert {b: found[key(f"{DURATION}_bucket", **labels, le=str(float(b)))] for b in BUCKETS} == expected
    assert found[key(f"{DURATION}_bucket", **labels, le="+Inf")] == 5
    assert found[key(f"{DURATION}_count", **labels)] == 5
    assert found[key(f"{DURATION}_sum", **labels)] == pytest.approx(1007.0205001)


def test_what_failed_is_counted_apart() -> None:
    metrics = Metrics()
    metrics.observe("tools/call", "files", "read", 0.1, "ok")
    metrics.observe("tools/call", "files", "read", 0.2, "timeout")
    metrics.observe("tools/call", "files", "read", 0.3, "tool_error")
    metrics.observe("tools/call", "files", "read", 0.3, "tool_error")
    found = read(metrics)
    for error, number in (("", 1), ("timeout", 1), ("tool_error", 2)):
        assert found[key(f"{DURATION}_count", **of("tools/call", "files", error))] == number
    where = {"server": "files", "tool": "read"}
    assert found[key(CALLS, **where)] == 4
    assert found[key("moltis_mcp_tool_call_errors_total", **where, error_type="tool_error")] == 2
    assert found[key("moltis_mcp_tool_call_errors_total", **where, error_type="timeout")] == 1
    assert found[key("moltis_mcp_tool_call_duration_seconds_sum", **where)] == pytest.approx(0.9)
    assert found[key("moltis_mcp_tool_call_duration_seconds_count", **where)] == 4


def test_a_method_that_a_host_made_up_gets_no_series_of_its_own() -> None:
    metrics = Metrics()
    for n in range(1000):
        metrics.observe(f"x/{n}", "files", None, 0.1, "ok")
    found = read(metrics)
    assert found[key(f"{DURATION}_count", **of("_OTHER", "files"))] == 1000
    assert sum(name == f"{DURATION}_count" for name, _ in found) == 1


def test_tools_beyond_the_bound_are_counted_together() -> None:
    metrics = Metrics()
    for n in range(MAX_TOOLS + 50):
        metrics.observe("tools/call", "files", f"t{n}", 0.1, "ok")
    metrics.observe("tools/call", "files", "t0", 0.1, "ok")
    found = read(metrics)
    assert found[key(CALLS, server="", tool="other")] == 50
    assert found[key(CALLS, server="files", tool="t0")] == 2
    assert sum(name == CALLS for name, _ in found) == MAX_TOOLS + 1


def test_series_beyond_the_bound_lose_their_server_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 10)
    metrics = Metrics()
    for n in range(30):
        metrics.observe("tools/call", f"s{n}", None, 0.1, "ok")
    found = read(metrics)
    counts = {labels: value for (name, labels), value in found.items() if name == f"{DURATION}_count"}
    assert len(counts) == 11
    assert sum(counts.values()) == 30


@pytest.mark.parametrize("tool", ['a"b\\c\nd', "\ud800", "é", "t" * 1000, ""])
def test_no_tools_name_spoils_the_text(tool: str) -> None:
    metrics = Metrics()
    metrics.observe("tools/call", "files", tool, 0.1, "ok")
    found = read(metrics)
    [labels] = [dict(labels) for name, labels in found if name == CALLS]
    assert labels["tool"] == (tool if tool in ("é", "") else "other")


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nb", "a\x9bb", "a\u202eb", "a\u200bb", "a\u2028b", "\udc80"])
def test_no_label_holds_what_a_terminal_would_obey(name: str) -> None:
    metrics = Metrics()
    for server, tool in (("files", name), ("files", "good")):
        metrics.observe("tools/call", server, tool, 0.1, "ok")
    metrics.observe(name, "files", None, 0.1, "ok")
    text = metrics.render([], 0, 0, "1").decode()
    assert all(char == "\n" or char.isprintable() for char in text)
    assert 'tool="good"' in text


def test_names_that_hosts_make_up_are_counted_together_and_take_no_place() -> None:
    metrics = Metrics(lambda server, tool: (server, tool) in {("files", "real"), ("git", "log")})
    for n in range(MAX_TOOLS + 50):
        metrics.observe("tools/call", "files", f"made-up-{n}", 0.1, "error")
    metrics.observe("tools/call", "git", "real", 0.1, "error")
    metrics.observe("tools/call", "files", "real", 0.1, "ok")
    metrics.observe("tools/call", "git", "log", 0.1, "ok")
    found = read(metrics)
    assert found[key(CALLS, server="files", tool="real")] == 1
    assert found[key(CALLS, server="git", tool="log")] == 1
    assert found[key(CALLS, server="", tool="other")] == MAX_TOOLS + 51
    assert sum(name == CALLS for name, _ in found) == 3


def test_each_server_is_up_or_not_and_in_one_state() -> None:
    found = read(
        Metrics(), server("a", restarts=3, heartbeat_latency_ms=12.5), server("b", "backoff"), server("c", "disabled")
    )
    assert [found[key("moltis_mcp_server_up", server=name)] for name in "abc"] == [1, 0, 0]
    assert found[key("moltis_mcp_server_restarts_total", server="a")] == 3
    assert found[key("moltis_mcp_server_heartbeat_seconds", server="a")] == 0.0125
    assert key("moltis_mcp_server_heartbeat_seconds", server="b") not in found
    states = {labels: value for (name, labels), value in found.items() if name == "moltis_mcp_server_state"}
    assert {tuple(sorted(dict(labels).values())) for labels, value in states.items() if value} == {
        ("a", "ready"), ("b", "backoff"), ("c", "disabled"),
    }  # fmt: skip
    assert len(states) == 3 * len(State)


def test_the_endpoint_and_the_process_are_there_before_anything_happened() -> None:
    found = read(Metrics(), sessions=4, in_flight=2)
    assert found[key("moltis_gateway_sessions")] == 4
    assert found[key("moltis_gateway_requests_in_flight")] == 2
    assert found[key("moltis_build_info", version="1.2.3")] == 1
    names = {name for name, _ in found}
    if sys.platform == "linux":
        expected = {"resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"}
        assert {f"process_{each}" for each in expected} <= names


def test_every_metric_says_what_it_is() -> None:
    metrics = Metrics()
    metrics.observe("tools/call", "files", "read", 0.1, "timeout")
    text = metrics.render([server("a", heartbeat_latency_ms=1.0)], 1, 1, "1").decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type != "unknown", family.name


def test_the_text_is_of_the_type_that_is_said() -> None:
    assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


def test_rendering_in_a_thread_disturbs_no_counting() -> None:
    metrics, done = Metrics(), threading.Event()
    failures: list[Exception] = []

    def render() -> None:
        while not done.is_set():
            try:
                metrics.render([], 0, 0, "1")
            except Exception as failure:
                failures.append(failure)

    thread = threading.Thread(target=render)
    thread.start()
    for n in range(20_000):
        metrics.observe("tools/call", f"s{n % 200}", f"t{n % 300}", 0.1, f"o{n % 20}")
    done.set()
    thread.join(20)
    assert failures == []
    assert sum(v for (name, _), v in read(metrics).items() if name == CALLS) == 20_000


def test_counting_imports_nothing() -> None:
    script = (
        "import sys; from moltis.gateway.metrics import Metrics; Metrics().observe('tools/call','a','b',1.0,'ok');"
        "assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
