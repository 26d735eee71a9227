"""The lines that tell why a program ended, out of all that it said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.lastwords import is_of_heartbeat, is_telling, pick, plain

NODE = [
    "node:internal/modules/cjs/loader:1228",
    "  throw err;",
    "  ^",
    "",
    "Error: Cannot find module 'yargs'",
    "Require stack:",
    "- /srv/index.js",
    *(f"    at Module._load (node:internal/modules/cjs/loader:{n}:12)" for n in range(20)),
    "  code: 'MODULE_NOT_FOUND',",
    "}",
    "",
    "Node.js v22.1.0",
]
PYTHON = [
    "Traceback (most recent call last):",
    *(line for n in range(20) for line in (f'  File "/srv/a.py", line {n}, in run', "    raise ValueError('no')")),
    "pydantic.ValidationError: 1 validation error for Settings",
]
GO = [
    'level=fatal msg="lookup slack.com: no such host"',
    "panic: Authentication failed",
    "goroutine 1 [running]:",
    *(["main.main()", "\t/src/main.go:10 +0x1d"] * 10),
    "exit status 2",
]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (NODE, ["Error: Cannot find module 'yargs'"]),
        (PYTHON, ["pydantic.ValidationError: 1 validation error for Settings"]),
        (GO, ['level=fatal msg="lookup slack.com: no such host"', "panic: Authentication failed"]),
        (["Log in with `tool login`.", *(f"step {n}" for n in range(30))], ["Log in with `tool login`."]),
        (["error: one", *(f"Error: again {n}" for n in range(30))], ["error: one", "Error: again 29"]),
        (
            ["npm error code E404", *["npm error A complete log of this run is in /x_logs/y"] * 9],
            ["npm error code E404"],
        ),
    ],
    ids=["node", "python", "go", "a first line", "many errors", "npm"],
)
@pytest.mark.parametrize("most", [3, 8])
def test_the_lines_that_tell_the_cause_are_kept_and_the_stack_is_not(
    lines: list[str], cause: list[str], most: int
) -> None:
    picked = pick(lines, most)
    assert len(picked) == most
    assert [line for line in picked if line in cause] == cause


def test_of_lines_whose_beginning_is_lost_the_first_is_nothing_special() -> None:
    assert pick([f"step {n}" for n in range(9)], 2, whole=False) == ["step 7", "step 8"]


@given(st.lists(st.text(max_size=20), max_size=40), st.integers(1, 20), st.booleans())
def test_lines_are_picked_and_never_changed_or_reordered(lines: list[str], most: int, whole: bool) -> None:
    picked = pick(lines, most, whole=whole)
    assert len(picked) == min(most, len(lines))
    rest = iter(lines)
    assert all(line in rest for line in picked)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (
            "\x1b[36mGITLAB_TOKEN environment variable is not set\x1b[39m",
            "GITLAB_TOKEN environment variable is not set",
        ),
        ("\x1b[1;38;2;255;0;0mred\x1b[0m and \x1b(Bplain", "red and plain"),
        ("\x1b]0;title\x07text \x1b]8;;https://x.test\x1b\\link\x1b]8;;\x1b\\", "text link"),
        ("\x1bPdevice\x1b\\after", "after"),
        ("10 %\r50 %\r100 %\r", "100 %"),
        ("    at main (x.js:1:2)", "    at main (x.js:1:2)"),
        ("cut \x1b[3", "cut \x1b[3"),
    ],
)
def test_a_line_is_as_a_terminal_leaves_it(line: str, left: str) -> None:
    assert plain(line) == left


@pytest.mark.parametrize("opening", ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b[1;", "\r", "a" * 64 + "\x1b]"])
def test_a_hostile_line_costs_linear_time(opening: str) -> None:
    assert len(plain(opening * 20_000)) < 20_000 * len(opening) + 1
    is_telling(opening * 20_000)


def test_a_stack_frame_that_names_an_error_is_where_and_not_what() -> None:
    assert not is_telling("    at raiseError (/srv/fail.js:1:2)")
    assert not is_telling("    raise ValueError('this must not be')")
    assert not is_telling("npm error A complete log of this run can be found in: /x")
    assert is_telling("Error: it must be a number")


@pytest.mark.parametrize(
    ("line", "is_so"),
    [
        ("2026-11-30 12:00:00,123 - mcp.server.lowlevel.server - INFO - Processing request of type PingRequest", True),
        ("[11/30/26 12:00:00] INFO     Processing request of type PingRequest    server.py:523", True),
        ("      Server (x 1.0), Client (moltis 0.1.0) method 'ping' request handler called.", True),
        ("time=2026-11-30T12:00:00Z level=INFO msg=request method=ping", True),
        ("[4711] [Local→Remote] ping", True),
        ("Processing request of type CallToolRequest", False),
        ("[4711] [Local→Remote] tools/call", False),
        ("Processing ping to 192.0.2.1", False),
        ("method=ping_host tool called", False),
        ("ERROR: PingRequest failed: connection refused", False),
        ("sending pings", False),
    ],
)
def test_a_line_of_a_heartbeat_is_told_from_all_others(line: str, is_so: bool) -> None:
    assert is_of_heartbeat(line) is is_so
