"""Dispatch: whatever is asked, there is exactly one answer."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from control_fakes import FakeDaemon
from hypothesis import given
from hypothesis import strategies as st

from moltis.access import Access
from moltis.control import requests
from moltis.control.methods import METHODS
from moltis.control.registry import Registry, error_reply
from moltis.operations.events import Subscription
from moltis.operations.params import Nothing
from moltis.operations.registry import Operations


class FakeTask:
    def cancel(self) -> None: ...


class FakeCaller:
    """Counts tasks instead of running them."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.tasks: list[Callable[[], Awaitable[None]]] = []

    @property
    def sink(self) -> FakeCaller:
        return self

    def has_room(self) -> bool:
        return True

    def tell(self, subscription_id: str, seq: int, dropped: int, event: bytes) -> None:
        raise AssertionError("nothing is sent before the reply")

    def after_reply(self, callback: Callable[[], None]) -> None: ...

    def start(self, work: Callable[[], Awaitable[None]]) -> FakeTask:
        self.tasks.append(work)
        return FakeTask()

    def hand_over(self, build: Callable[[Any], Any]) -> None:
        pass


def dispatch(method: str, params: Any, registry: Registry = METHODS) -> tuple[list[dict[str, Any]], FakeCaller]:
    caller, replies = FakeCaller(), list[bytes]()
    raw = None if params is None else msgspec.Raw(json.dumps(params).encode())
    registry.dispatch(requests.Request(b"1", method, raw), FakeDaemon(), caller, replies.append)
    return [json.loads(r) for r in replies], caller


PARAMS = sorted({f.encode_name for m in METHODS.methods.values() for f in msgspec.structs.fields(m.params)})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(["alpha"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(METHODS.methods)) | st.text(),
    st.none() | st.lists(values) | st.dictionaries(st.sampled_from(PARAMS) | st.text(), values, max_size=4),
)
def test_every_request_gets_one_answer_or_one_task(method: str, params: Any) -> None:
    replies, caller = dispatch(method, params)
    assert len(replies) + len(caller.tasks) == 1
    for reply in replies:
        assert reply["id"] == 1
        if "error" in reply:
            assert reply["error"]["code"] != -32603, reply
            assert set(reply["error"]["data"]) >= {"kind", "server", "hint"}


def test_a_result_that_is_no_json_is_our_fault() -> None:
    operations = Operations()

    @operations.operation("odd", Access.READ)
    def odd(params: Nothing, daemon: Any) -> object:
        """Give what cannot be encoded."""
        return object()

    replies, _ = dispatch("odd", None, Registry(operations))
    assert replies[0]["error"]["code"] == -32603


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "/data/logs.jsonl"), "/data/logs.jsonl: Input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied", "/c/moltis.toml"), "/c/moltis.toml: Permission denied"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_told_as_that_and_not_as_our_fault(error: OSError, said: str) -> None:
    reply = json.loads(error_reply(b"1", error, "logs.tail"))["error"]
    assert reply["message"] == said
    assert reply["data"] == {"kind": "system", "server": None, "hint": "try again once that is mended"}


def test_a_method_without_a_docstring_is_not_registered() -> None:
    def mute(params: Nothing, daemon: Any) -> None:
        pass

    with pytest.raises(AssertionError, match="no docstring"):
        Operations().operation("mute", Access.READ)(mute)
    with pytest.raises(AssertionError, match="no docstring"):
        Registry(Operations()).method("mute", Access.READ)(mute)


def test_a_caller_that_goes_away_ends_only_what_is_of_use_to_nobody_else() -> None:
    ends = {m.name for m in METHODS.methods.values() if m.lasts == "while connected"}
    assert ends == {"mcp.call", "mcp.read_resource", "mcp.get_prompt", "mcp.test"}
