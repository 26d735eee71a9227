from __future__ import annotations

import json
from typing import Any

import pytest

from moltis.session.handshake import (
    DISCOVER,
    HANDSHAKE_VERSIONS,
    INITIALIZE,
    MAX_ANSWER_BYTES,
    Done,
    EraMemory,
    Failed,
    Handshake,
    Send,
    Step,
)

CLIENT = b'{"name":"moltis","version":"0"}'
DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


def handshake(**more: Any) -> Handshake:
    return Handshake(CLIENT, **more)


def asked(step: Step) -> list[str]:
    assert isinstance(step, Send)
    return [ask.method for ask in step.asks]


def answer(machine: Handshake, method: str, result: object) -> Step:
    return machine.on_reply(method, json.dumps(result).encode(), None)


def refuse(machine: Handshake, method: str, code: int, supported: list[str] | None = None) -> Step:
    data = {} if supported is None else {"data": {"supported": supported, "requested": "?"}}
    return machine.on_reply(method, None, json.dumps({"code": code, "message": "no", **data}).encode())


def test_auto_probes_with_the_envelope_of_the_modern_era() -> None:
    step = handshake().start()
    assert isinstance(step, Send)
    (ask,) = step.asks
    assert (ask.method, ask.patience_secs) == (DISCOVER, 10.0)
    meta = json.loads(ask.params)["_meta"]
    assert meta == {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "moltis", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def test_a_modern_server_is_taken_at_its_word() -> None:
    machine = handshake()
    machine.start()
    info = {"name": "n", "version": "2"}
    step = answer(
        machine, DISCOVER, {**DISCOVERED, "instructions": "hi", "_meta": {"io.modelcontextprotocol/serverInfo": info}}
    )
    assert isinstance(step, Done)
    assert (step.agreed.era, step.agreed.protocol_version, step.notifications) == ("modern", "2026-07-28", ())
    assert (step.agreed.server_info, step.agreed.instructions, step.agreed.capabilities) == (info, "hi", {"tools": {}})


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, -32603, -32001, 7])
def test_any_other_error_means_an_old_server(code: int) -> None:
    machine = handshake()
    machine.start()
    assert asked(refuse(machine, DISCOVER, code)) == [INITIALIZE]
    step = answer(machine, INITIALIZE, INITIALIZED)
    assert isinstance(step, Done)
    assert (step.agreed.era, step.notifications) == ("legacy", ("notifications/initialized",))


@pytest.mark.parametrize(
    "answered",
    [
        {},
        [],
        5,
        {"supportedVersions": []},
        {"supportedVersions": ["2025-11-25"], "capabilities": {}},
        {"capabilities": {}},
    ],
    ids=str,
)
def test_an_answer_that_proves_nothing_means_an_old_server(answered: object) -> None:
    machine = handshake()
    machine.start()
    assert asked(answer(machine, DISCOVER, answered)) == [INITIALIZE]


@pytest.mark.parametrize("version", HANDSHAKE_VERSIONS)
def test_every_released_revision_is_accepted(version: str) -> None:
    machine = handshake(mode="legacy")
    assert asked(machine.start()) == [INITIALIZE]
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Done)
    assert step.agreed.protocol_version == version


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-28", "", "zzz"])
def test_an_unknown_revision_fails_and_is_named(version: str) -> None:
    machine = handshake(mode="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Failed)
    assert version in step.reason


@pytest.mark.parametrize(
    "answered", [{}, [], None, {"protocolVersion": 5}, {"protocolVersion": "2025-11-25", "capabilities": []}]
)
def test_an_answer_to_initialize_that_is_none_fails(answered: object) -> None:
    machine = handshake(mode="legacy")
    machine.start()
    assert isinstance(answer(machine, INITIALIZE, answered), Failed)


def test_a_server_that_does_not_say_its_name_is_accepted() -> None:
    machine = handshake(mode="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {"protocolVersion": "2024-11-05"})
    assert isinstance(step, Done)
    assert step.agreed.server_info is None


def test_an_endless_answer_fails_without_being_kept() -> None:
    machine = handshake(mode="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "instructions": "x" * MAX_ANSWER_BYTES})
    assert isinstance(step, Failed)


def test_initialize_follows_a_probe_without_answer_and_a_late_answer_still_counts() -> None:
    machine = handshake()
    machine.start()
    assert asked(machine.on_timeout()) == [INITIALIZE]
    step = answer(machine, DISCOVER, DISCOVERED)
    assert isinstance(step, Done)
    assert step.agreed.era == "modern"
    assert answer(machine, INITIALIZE, INITIALIZED) == Send()


def test_a_late_refusal_of_the_probe_changes_nothing() -> None:
    machine = handshake()
    machine.start()
    machine.on_timeout()
    assert refuse(machine, DISCOVER, -32022, ["2099-01-01"]) == Send()
    assert isinstance(answer(machine, INITIALIZE, INITIALIZED), Done)


def test_a_server_of_later_revisions_only_fails_and_they_are_named() -> None:
    machine = handshake()
    machine.start()
    step = refuse(machine, DISCOVER, -32022, ["2027-01-01", "2028-01-01"])
    assert isinstance(step, Failed)
    assert "2027-01-01, 2028-01-01" in step.reason


def test_a_mutual_revision_named_in_a_refusal_is_probed_once_more() -> None:
    machine = handshake()
    machine.start()
    assert asked(refuse(machine, DISCOVER, -32022, ["2026-07-28"])) == [DISCOVER]
    assert isinstance(refuse(machine, DISCOVER, -32022, ["2026-07-28"]), Failed)


def test_a_refusal_that_names_an_old_revision_means_initialize() -> None:
    machine = handshake()
    machine.start()
    assert asked(refuse(machine, DISCOVER, -32022, ["2025-06-18", "2099-01-01"])) == [INITIALIZE]


def test_a_refusal_without_versions_means_initialize() -> None:
    machine = handshake()
    machine.start()
    assert asked(refuse(machine, DISCOVER, -32022)) == [INITIALIZE]


def test_initialize_refused_by_a_modern_server_is_proof_of_one() -> None:
    machine = handshake()
    machine.start()
    machine.on_timeout()
    assert asked(refuse(machine, INITIALIZE, -32022, ["2026-07-28"])) == [DISCOVER]
    assert isinstance(answer(machine, DISCOVER, DISCOVERED), Done)


def test_a_configured_legacy_server_is_never_probed() -> None:
    machine = handshake(mode="legacy")
    machine.start()
    assert isinstance(refuse(machine, INITIALIZE, -32022, ["2026-07-28"]), Failed)


@pytest.mark.parametrize(("code", "supported"), [(-32022, ["2026-07-28"]), (-32022, None), (-32601, None)])
def test_what_was_remembered_is_corrected_by_the_server(code: int, supported: list[str] | None) -> None:
    machine = handshake(legacy_first=True)
    assert asked(machine.start()) == [INITIALIZE]
    assert asked(refuse(machine, INITIALIZE, code, supported)) == [DISCOVER]
    step = answer(machine, DISCOVER, DISCOVERED)
    assert isinstance(step, Done)
    assert step.agreed.era == "modern"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("legacy_first", [True, False])
@pytest.mark.parametrize("supported", [None, ["2026-07-28"], ["2025-11-25"], ["2099-01-01"]], ids=str)
@pytest.mark.parametrize("code", [-32601, -32022])
def test_a_server_that_refuses_everything_ends_it(mode: str, legacy_first: bool, supported: Any, code: int) -> None:
    machine = handshake(mode=mode, legacy_first=legacy_first)
    step = machine.start()
    for _ in range(6):
        if isinstance(step, Failed):
            return
        assert isinstance(step, Send)
        (ask,) = step.asks
        step = refuse(machine, ask.method, code, supported)
    pytest.fail("it goes round in circles")


def test_a_start_that_dies_of_the_probe_is_followed_by_one_without() -> None:
    memory = EraMemory()
    memory.failed(died_of_probe=True)
    assert memory.legacy_first
    memory.failed(died_of_probe=False)
    assert not memory.legacy_first


def test_a_proven_era_is_remembered_through_failures_until_proven_otherwise() -> None:
    memory = EraMemory()
    memory.agreed("legacy")
    memory.failed(died_of_probe=False)
    assert memory.legacy_first
    memory.agreed("modern")
    assert not memory.legacy_first


def test_what_a_server_says_of_itself_that_is_not_understood_is_kept_as_it_came() -> None:
    machine = handshake(mode="legacy")
    machine.start()
    said = b'{"protocolVersion":"2025-11-25","capabilities":{},"vendor":{"z":1e400,"a":1.0},"_meta":{"v":[ 1 ]}}'
    step = machine.on_reply(INITIALIZE, said, None)
    assert isinstance(step, Done)
    assert {name: bytes(raw) for name, raw in step.agreed.more.items()} == {
        "vendor": b'{"z":1e400,"a":1.0}',
        "_meta": b'{"v":[ 1 ]}',
    }


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        (b'{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"},"v":1.0}', {"_meta": b'{"v":1.0}'}),
        (b'{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}}', {}),
        (b"null", {}),
    ],
)
def test_what_is_about_a_discovery_alone_is_not_kept(meta: bytes, kept: dict[str, bytes]) -> None:
    machine = handshake()
    machine.start()
    said = b'{"resultType":"complete","ttlMs":5,"cacheScope":"public","supportedVersions":["2026-07-28"],'
    step = machine.on_reply(DISCOVER, said + b'"capabilities":{},"_meta":%b}' % meta, None)
    assert isinstance(step, Done)
    assert {name: bytes(raw) for name, raw in step.agreed.more.items()} == kept
