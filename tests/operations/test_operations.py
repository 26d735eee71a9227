"""Every operation, whatever asks for it: who may use it is said of each one, and it needs no front to run."""

from __future__ import annotations

import inspect

import pytest

from moltis.access import Access
from moltis.control.methods import METHODS
from moltis.errors import UsageError
from moltis.operations.definitions import OPERATIONS
from moltis.operations.registry import Operation, Operations

WHO_MAY = {
    Access.PUBLIC: "",
    Access.READ: (
        "daemon.status mcp.list mcp.status mcp.history mcp.tools mcp.resources mcp.prompts mcp.read_resource "
        "mcp.get_prompt mcp.config.get project.list project.show rpc.discover"
    ),
    Access.CALL: "mcp.call mcp.start mcp.stop mcp.restart mcp.reauth mcp.oauth.start mcp.connect",
    Access.ADMIN: (
        "daemon.reload daemon.shutdown mcp.enable mcp.disable mcp.add mcp.update mcp.remove mcp.test "
        "mcp.config.update env.list env.set env.unset token.create token.list token.revoke mcp.logout "
        "mcp.oauth.complete "
        "project.add project.remove project.exclude project.include logs.tail mcp.subscribe mcp.unsubscribe"
    ),
}


def test_who_may_use_it_is_said_of_each_one_and_of_every_method_of_the_control_socket() -> None:
    for access, names in WHO_MAY.items():
        assert {name for name, method in METHODS.methods.items() if method.access is access} == set(names.split())
    assert OPERATIONS.all.keys() < METHODS.methods.keys()


@pytest.mark.parametrize("register", [Operations.operation, Operations.relayed, Operation.of, type(METHODS).method])
def test_nothing_is_offered_without_saying_who_may(register: object) -> None:
    access = inspect.signature(register).parameters["access"]  # type: ignore[arg-type]
    assert access.default is inspect.Parameter.empty


def test_none_takes_anything_but_its_params_and_the_daemon() -> None:
    for operation in OPERATIONS.all.values():
        takes = list(inspect.signature(operation.run).parameters)
        assert takes == ["params", "daemon", *["on_reply"] * (operation.kind == "relayed")], operation.name
        assert inspect.iscoroutinefunction(operation.run) == (operation.kind == "task")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("mcp.status", b"{}", "Invalid params: 'name' is missing"),
        ("mcp.status", None, "Invalid params: 'name' is missing"),
        ("mcp.status", b'{"nmae":"x"}', "Invalid params: no param 'nmae' - did you mean 'name'?"),
        ("mcp.status", b'["x"]', "Invalid params: they go by name, as an object"),
        ("mcp.history", b'{"name":"x","limit":0}', "Invalid params: limit: expected `int` >= 1"),
        ("daemon.status", b'{"a":1}', "Invalid params: no param 'a'"),
    ],
)
def test_wrong_params_are_said_in_the_same_words_to_every_front(name: str, raw: bytes | None, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        OPERATIONS.all[name].read(raw)
    assert refused.value.message == message
    assert refused.value.hint.startswith(f"{name} takes ")
