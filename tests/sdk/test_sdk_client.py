"""The process with the SDK by itself, and where two clients are said to differ."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from moltis.sdk.messages import AskLocal, AskRemote, Found, differences

pytestmark = pytest.mark.e2e

ASK = {
    "type": "stdio", "command": "true", "args": [], "env": {}, "cwd": "/", "legacy": False, "elicits": False,
    "request_timeout_secs": 5,
}  # fmt: skip


def test_without_the_sdk_it_says_how_to_get_it() -> None:
    hidden = "import sys, runpy; sys.modules['mcp'] = None; runpy.run_module('moltis.sdk.client', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", hidden], input=json.dumps(ASK) + "\n", capture_output=True, text=True, timeout=60
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["trouble"], done.stderr) == (0, "missing", "")
    assert "pip install 'mcp>=2.3,<3'" in answer["error"]


def test_the_process_ends_when_its_stdin_is_closed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "moltis.sdk.client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**ASK, "command": "sleep", "args": ["600"]}) + "\n")
    process.stdin.flush()
    time.sleep(1)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_a_question_shows_nothing_of_what_is_in_it() -> None:
    local = AskLocal(
        command="npx",
        args=["s3cret"],
        env={"KEY": "s3cret"},
        cwd="/",
        legacy=False,
        elicits=False,
        request_timeout_secs=1.0,
    )
    url = "https://h.example/mcp?key=s3cret"
    remote = AskRemote(
        url=url,
        headers=[("X", "s3cret")],
        ca_file=None,
        falls_back=False,
        legacy=False,
        elicits=False,
        request_timeout_secs=1.0,
    )
    assert "s3cret" not in repr([local, remote])


OLD = Found(protocol_version="2025-11-25", server_info={"name": "a", "version": "1"}, lists={"tools": ["x", "y"]})
NEW = Found(protocol_version="2026-07-28", server_info={"name": "a", "version": "1"}, lists={"tools": ["y", "x"]})


@pytest.mark.parametrize(
    ("ours", "theirs", "local", "what", "expected"),
    [
        (OLD, OLD, True, [], True),
        (OLD, NEW, True, ["protocol_version"], True),
        (OLD, NEW, False, ["protocol_version"], False),
        (NEW, OLD, True, ["protocol_version"], False),
        (None, OLD, True, ["error"], False),
        (OLD, None, True, ["error"], False),
        (None, None, True, [], True),
        (OLD, Found(protocol_version="2025-11-25", server_info={"name": "b"}), True, ["server_info", "tools"], False),
    ],
)
def test_where_they_differ(
    ours: Found | None, theirs: Found | None, local: bool, what: list[str], expected: bool
) -> None:
    found = differences(ours, theirs, local=local)
    assert [each.what for each in found] == what
    assert all(each.expected for each in found) == expected


def test_a_name_twice_is_a_difference_too() -> None:
    twice = Found(protocol_version="2025-11-25", server_info=OLD.server_info, lists={"tools": ["x", "y", "y"]})
    (tools,) = differences(OLD, twice, local=True)
    assert (tools.what, tools.moltis, tools.sdk, tools.only_sdk) == ("tools", "2", "3", [])
    assert tools.note
