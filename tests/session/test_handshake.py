from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.config.keys import REVISIONS
from moltis.session.description import MAX_INSTRUCTIONS_CHARS
from moltis.session.handshake import (
    DISCOVER,
    HANDSHAKE_VERSIONS,
    INITIALIZE,
    MODERN_VERSIONS,
    Anew,
    Done,
    EraMemory,
    Failed,
    Handshake,
    Lesson,
    Send,
    Step,
)

CLIENT = b'{"name":"moltis","version":"0"}'
DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


def handshake(**more: Any) -> Handshake:
    """A negotiation over HTTP."""
    return Handshake(CLIENT, **{"remote": True, **more})


def by_pipe(lesson: Lesson = Lesson.NONE, **more: Any) -> Handshake:
    return Handshake(CLIENT, memory=EraMemory(lesson), **more)


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
    machine = handshake(protocol="legacy")
    assert asked(machine.start()) == [INITIALIZE]
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Done)
    assert step.agreed.protocol_version == version


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-28", "", "zzz"])
def test_an_unknown_revision_fails_and_is_named(version: str) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Failed)
    assert version in step.reason


@pytest.mark.parametrize(
    ("answered", "seen"),
    [
        ({}, "has no `protocolVersion`"),
        ({"capabilities": {}}, "has no `protocolVersion`"),
        ([], "is a list, not an object"),
        (None, "is null, not an object"),
        ("ok", "is a text, not an object"),
        ({"protocolVersion": 5}, "`protocolVersion` in the answer to initialize is a number, not a text"),
        ({"protocolVersion": None}, "`protocolVersion` in the answer to initialize is null, not a text"),
    ],
)
def test_an_answer_to_initialize_that_is_none_fails_and_says_what_is_wrong(answered: object, seen: str) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, answered)
    assert isinstance(step, Failed)
    assert seen in step.reason


@pytest.mark.parametrize("version", ["2025-06-18 ", " 2025-06-18", "2025-06-18\n"])
def test_white_space_is_no_part_of_a_revision(version: str) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Done)
    assert step.agreed.protocol_version == "2025-06-18"


@pytest.mark.parametrize("version", ["2025-06-18\u00a0x", "2025-06-18 draft", "2025\u201106\u201118", ""])
def test_what_cannot_be_seen_in_an_unknown_revision_is_shown(version: str) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": version})
    assert isinstance(step, Failed)
    assert f"speaks MCP {version!r};" in step.reason


def test_what_the_entry_rules_out_is_not_called_unknown() -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = refuse(machine, INITIALIZE, -32022, ["2026-07-28"])
    assert isinstance(step, Failed)
    assert step.reason.startswith(
        'the server speaks MCP 2026-07-28; protocol = "legacy" in its entry allows 2024-11-05'
    )
    assert "2026-07-28" not in step.reason.partition(";")[2]


@pytest.mark.parametrize(
    ("member", "value", "remarks"),
    [
        ("capabilities", None, 0),
        ("capabilities", [], 0),
        ("capabilities", "tools", 1),
        ("capabilities", ["tools"], 1),
        ("serverInfo", None, 0),
        ("serverInfo", "me", 1),
        ("serverInfo", [], 0),
        ("serverInfo", {"name": {"text": "me"}}, 1),
        ("instructions", None, 0),
        ("instructions", ["a"], 1),
        ("instructions", {"text": "a"}, 1),
        ("_meta", "x", 0),
        ("anything", None, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_no_server_is_lost_for_a_part_that_nobody_needs(era: str, member: str, value: Any, remarks: int) -> None:
    machine = handshake(protocol="legacy" if era == "legacy" else "2026-07-28")
    machine.start()
    if era == "legacy":
        step = answer(machine, INITIALIZE, {**INITIALIZED, member: value})
    elif member == "serverInfo":
        step = answer(machine, DISCOVER, {**DISCOVERED, "_meta": {"io.modelcontextprotocol/serverInfo": value}})
    else:
        step = answer(machine, DISCOVER, {**DISCOVERED, member: value})
    assert isinstance(step, Done)
    assert step.agreed.era == era
    assert len(step.agreed.remarks) == remarks
    assert all(f"`{member}" in remark for remark in step.agreed.remarks)


@pytest.mark.parametrize("versions", [["2026-07-28", 5], ["2026-07-28", None], "2026-07-28", ["2026-07-28 "]], ids=str)
def test_a_modern_server_is_read_as_leniently(versions: Any) -> None:
    machine = handshake()
    machine.start()
    step = answer(machine, DISCOVER, {"supportedVersions": versions})
    assert isinstance(step, Done)
    assert (step.agreed.protocol_version, step.agreed.capabilities) == ("2026-07-28", {})


@pytest.mark.parametrize(
    ("discovered", "seen"),
    [
        ({"supportedVersions": 5}, "`supportedVersions` in the answer to server/discover is a number, not a list"),
        ({"capabilities": {}}, "the answer to server/discover has no `supportedVersions`"),
        ({"supportedVersions": ["2099-01-01"]}, "the answer to server/discover names 2099-01-01"),
        ([1], "the answer to server/discover is a list, not an object"),
    ],
    ids=str,
)
@pytest.mark.parametrize("remote", [True, False])
def test_a_modern_server_whose_answer_is_of_no_use_is_told_so_and_not_that_it_speaks_what_we_speak(
    discovered: object, seen: str, remote: bool
) -> None:
    machine = by_pipe(remote=remote)
    step = machine.start()
    for _ in range(4):
        if isinstance(step, Failed):
            break
        (method,) = asked(step)
        if method == DISCOVER:
            step = answer(machine, DISCOVER, discovered)
        else:
            step = refuse(machine, INITIALIZE, -32022, ["2026-07-28"])
    assert isinstance(step, Failed)
    assert seen in step.reason


def test_a_server_that_does_not_say_its_name_is_accepted() -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {"protocolVersion": "2024-11-05"})
    assert isinstance(step, Done)
    assert step.agreed.server_info is None


@pytest.mark.parametrize("chars", [300_000, 5_000_000])
def test_instructions_without_end_are_cut_and_it_is_said(chars: int) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    step = answer(machine, INITIALIZE, {**INITIALIZED, "instructions": "\u00e4" * chars})
    assert isinstance(step, Done)
    assert step.agreed.instructions == "\u00e4" * MAX_INSTRUCTIONS_CHARS
    assert step.agreed.remarks == (f"its instructions have {chars} characters, of which hosts get 262144",)


@pytest.mark.parametrize("member", ["capabilities", "serverInfo", "_meta", "vendor"])
def test_any_other_part_without_end_is_not_kept(member: str) -> None:
    machine = handshake(protocol="legacy")
    machine.start()
    long = {"name": "s", "tools": {"listChanged": True}, "blob": "x" * 1_000_000}
    step = answer(machine, INITIALIZE, {**INITIALIZED, member: long})
    assert isinstance(step, Done)
    agreed = step.agreed
    assert len(json.dumps([agreed.server_info, agreed.capabilities]) + str(agreed.more)) < 10_000
    assert len(agreed.remarks) == 1
    if member == "capabilities":
        assert agreed.capabilities == {"tools": {"listChanged": True}}
    if member == "serverInfo":
        assert agreed.server_info == {"name": "s"}


def test_initialize_follows_a_probe_without_answer_and_a_late_answer_still_counts() -> None:
    machine = handshake()
    machine.start()
    assert asked(machine.on_timeout()) == [INITIALIZE]
    assert answer(machine, DISCOVER, DISCOVERED) == Send()  # the answer to initialize decides
    step = refuse(machine, INITIALIZE, -32601)
    assert isinstance(step, Done)
    assert step.agreed.era == "modern"


def test_a_late_answer_decides_when_initialize_has_had_its_time_too() -> None:
    machine = handshake()
    machine.start()
    machine.on_timeout()
    assert machine.on_timeout() == Send()
    assert isinstance(answer(machine, DISCOVER, DISCOVERED), Done)


def test_a_late_answer_is_ignored_once_initialize_was_answered() -> None:
    machine = handshake()
    machine.start()
    machine.on_timeout()
    answer(machine, DISCOVER, DISCOVERED)
    step = answer(machine, INITIALIZE, INITIALIZED)
    assert isinstance(step, Done)
    assert step.agreed.era == "legacy"


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
    machine = handshake(protocol="legacy")
    machine.start()
    assert isinstance(refuse(machine, INITIALIZE, -32022, ["2026-07-28"]), Failed)


@pytest.mark.parametrize(("code", "supported"), [(-32022, ["2026-07-28"]), (-32022, None), (-32601, None)])
def test_what_was_remembered_is_corrected_by_the_server(code: int, supported: list[str] | None) -> None:
    machine = by_pipe(Lesson.LEGACY)
    assert asked(machine.start()) == [INITIALIZE]
    assert asked(refuse(machine, INITIALIZE, code, supported)) == [DISCOVER]
    step = answer(machine, DISCOVER, DISCOVERED)
    assert isinstance(step, Done)
    assert step.agreed.era == "modern"


@pytest.mark.parametrize("mode", ["auto", "legacy", "2025-06-18", "2026-07-28"])
@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("lesson", list(Lesson))
@pytest.mark.parametrize("supported", [None, ["2026-07-28"], ["2025-11-25"], ["2099-01-01"]], ids=str)
@pytest.mark.parametrize("code", [-32601, -32022])
def test_a_server_that_refuses_everything_ends_it(
    mode: str, remote: bool, lesson: Lesson, supported: Any, code: int
) -> None:
    machine = by_pipe(lesson, protocol=mode, remote=remote)
    step = machine.start()
    for _ in range(6):
        if isinstance(step, Failed):
            return
        assert isinstance(step, Send)
        (ask,) = step.asks
        step = refuse(machine, ask.method, code, supported)
    pytest.fail("it goes round in circles")


def test_every_revision_that_is_spoken_may_be_configured() -> None:
    assert (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS) == REVISIONS


def test_over_a_pipe_initialize_comes_first() -> None:
    machine = by_pipe()
    step = machine.start()
    assert isinstance(step, Send)
    (ask,) = step.asks
    assert (ask.method, json.loads(ask.params)["protocolVersion"], ask.version) == (INITIALIZE, "2025-11-25", None)
    step = answer(machine, INITIALIZE, INITIALIZED)
    assert isinstance(step, Done)
    assert step.agreed.era == "legacy"


@pytest.mark.parametrize("code", [-32022, -32601, -32600, -32602, -32000, 7])
def test_what_refuses_initialize_is_asked_for_the_newer_era_on_the_same_connection(code: int) -> None:
    machine = by_pipe()
    machine.start()
    assert asked(refuse(machine, INITIALIZE, code, ["2026-07-28"] if code == -32022 else None)) == [DISCOVER]
    step = answer(machine, DISCOVER, DISCOVERED)
    assert isinstance(step, Done)
    assert (step.agreed.era, step.agreed.supported) == ("modern", ("2026-07-28",))


def test_an_answer_to_initialize_in_the_newer_revision_shows_a_modern_server() -> None:
    machine = by_pipe()
    machine.start()
    assert asked(answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": "2026-07-28"})) == [DISCOVER]


PICKY = [
    ({"code": -32602, "message": "Unsupported protocol version", "data": {"supported": ["2024-11-05"]}}, "2024-11-05"),
    ({"code": -32602, "message": "Invalid params", "data": {"expected": "2025-06-18", "received": "2025-11-25"}}, None),
    ({"code": -32602, "message": "no", "data": '{"versions":["2025-06-18"]}'}, "2025-06-18"),
    ({"code": -32000, "message": "Bad Request: supported versions: 2024-11-05, 2025-06-18, 2025-03-26"}, None),
    ({"code": -32602, "message": "2025-11-25 is not known here (use 2025-06-18)"}, "2025-06-18"),
    ({"code": -32022, "message": "no", "data": {"supported": ["2025-03-26", "2024-11-05"]}}, "2025-03-26"),
    ({"code": -32603, "message": "version must be one of [2099-01-01 2025-06-18]", "data": None}, "2025-06-18"),
    ("only 2025-06-18 is spoken here", "2025-06-18"),
    ({"code": "UNSUPPORTED", "message": "want 2025-06-18"}, "2025-06-18"),
    ({"code": None, "message": None, "data": {"supported": ["2025-06-18"]}}, "2025-06-18"),
]


@pytest.mark.parametrize(("error", "named"), PICKY)
@pytest.mark.parametrize("how", ["pipe", "http", "legacy", "remembered"])
def test_a_refusal_that_names_a_revision_we_speak_is_answered_by_offering_the_newest_of_those_once(
    error: object, named: str | None, how: str
) -> None:
    machine = {
        "pipe": lambda: by_pipe(),
        "http": lambda: handshake(),
        "legacy": lambda: by_pipe(protocol="legacy"),
        "remembered": lambda: by_pipe(Lesson.LEGACY),
    }[how]()
    step = machine.start()
    if how == "http":
        assert asked(step) == [DISCOVER]
        step = refuse(machine, DISCOVER, -32601)
    refusal = json.dumps(error).encode()
    step = machine.on_reply(INITIALIZE, None, refusal)
    assert isinstance(step, Send)
    (ask,) = step.asks
    assert (ask.method, ask.patience_secs) == (INITIALIZE, None)
    offered = json.loads(ask.params)["protocolVersion"]
    assert offered == (named or "2025-06-18")
    agreed = answer(machine, INITIALIZE, {**INITIALIZED, "protocolVersion": offered})
    assert isinstance(agreed, Done)
    assert (agreed.agreed.era, agreed.agreed.protocol_version) == ("legacy", offered)


@pytest.mark.parametrize(("error", "named"), PICKY)
def test_what_refuses_the_second_offer_too_is_not_offered_a_third_and_shown_with_its_data(
    error: Any, named: str | None
) -> None:
    machine = by_pipe(protocol="legacy")
    machine.start()
    refusal = json.dumps(error).encode()
    assert asked(machine.on_reply(INITIALIZE, None, refusal)) == [INITIALIZE]
    step = machine.on_reply(INITIALIZE, None, b'{"code":-32602,"message":"no","data":{"supported":["2025-03-26"]}}')
    assert isinstance(step, Failed)
    assert '{"supported":["2025-03-26"]}' in step.reason
    assert f"(it was offered 2025-11-25, and then {named or '2025-06-18'})" in step.reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("go away", "initialize was answered with an error: go away"),
        ({"code": "EAUTH", "message": "no key"}, "initialize was answered with an error: EAUTH: no key"),
        ({"code": -32000, "message": "no"}, "initialize was answered with error -32000: no"),
    ],
)
def test_the_words_of_a_malformed_refusal_are_told_too(error: object, told: str) -> None:
    machine = by_pipe(protocol="legacy")
    machine.start()
    step = machine.on_reply(INITIALIZE, None, json.dumps(error).encode())
    assert isinstance(step, Failed)
    assert told in step.reason


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32602, "message": "Unsupported protocol version", "data": {"supported": ["2025-11-25"]}},
        {"code": -32602, "message": "Unsupported protocol version: 2025-11-25"},
        {"code": -32602, "message": "see ticket 12025-06-187 of 2099-01-01"},
        {"code": -32602, "message": "Unsupported protocol version", "data": {"supported": [20250618]}},
    ],
)
def test_what_names_nothing_that_may_be_offered_is_offered_nothing(error: object) -> None:
    machine = by_pipe(protocol="legacy")
    machine.start()
    assert isinstance(machine.on_reply(INITIALIZE, None, json.dumps(error).encode()), Failed)


def test_a_configured_revision_is_the_only_offer_whatever_the_refusal_names() -> None:
    machine = by_pipe(protocol="2025-03-26")
    machine.start()
    error = {"code": -32602, "message": "no", "data": {"supported": ["2025-06-18"]}}
    step = machine.on_reply(INITIALIZE, None, json.dumps(error).encode())
    assert isinstance(step, Failed)
    assert "2025-06-18" in step.reason


def test_a_modern_revision_comes_before_an_older_one_that_is_named_beside_it() -> None:
    machine = by_pipe()
    machine.start()
    assert asked(refuse(machine, INITIALIZE, -32022, ["2025-06-18", "2026-07-28"])) == [DISCOVER]
    assert asked(refuse(machine, DISCOVER, -32601)) == [INITIALIZE], "what it refused then leaves the older one"


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
@pytest.mark.parametrize("read", [True, False])
def test_a_process_that_exits_on_the_first_offer_is_made_the_second_by_a_fresh_one(protocol: str, read: bool) -> None:
    machine = by_pipe(protocol=protocol)
    machine.start()
    refuse(machine, INITIALIZE, -32602, ["2025-06-18"])
    assert machine.again(ended_itself=True, read=read)
    step = machine.start()
    assert isinstance(step, Send)
    assert [json.loads(ask.params)["protocolVersion"] for ask in step.asks] == ["2025-06-18"]
    assert not machine.again(ended_itself=True, read=True), "that is the last"


def test_what_refuses_both_is_reported_by_its_first_refusal() -> None:
    machine = by_pipe()
    machine.start()
    refuse(machine, INITIALIZE, -32603)
    step = refuse(machine, DISCOVER, -32601)
    assert isinstance(step, Failed)
    assert "initialize was answered with error -32603" in step.reason


@pytest.mark.parametrize(
    ("protocol", "method", "offered"),
    [
        ("2024-11-05", INITIALIZE, "2024-11-05"),
        ("2025-06-18", INITIALIZE, "2025-06-18"),
        ("legacy", INITIALIZE, "2025-11-25"),
        ("2026-07-28", DISCOVER, "2026-07-28"),
    ],
)
@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("lesson", list(Lesson))
def test_a_configured_revision_is_offered_alone(
    protocol: str, method: str, offered: str, remote: bool, lesson: Lesson
) -> None:
    machine = by_pipe(lesson, protocol=protocol, remote=remote)
    step = machine.start()
    assert isinstance(step, Send)
    (ask,) = step.asks
    assert (ask.method, ask.patience_secs) == (method, None)
    assert offered in ask.params.decode()
    assert not machine.again(ended_itself=True, read=True)
    assert isinstance(refuse(machine, method, -32601), Failed)


def test_a_server_that_left_the_probe_unanswered_is_given_less_time_for_it() -> None:
    memory = EraMemory()
    for patience_secs in (10.0, 1.0, 1.0):
        machine = Handshake(CLIENT, remote=True, memory=memory)
        step = machine.start()
        assert isinstance(step, Send)
        assert step.asks[0].patience_secs == patience_secs
        machine.on_timeout()
        answer(machine, INITIALIZE, INITIALIZED)
        machine.was_ready()
        assert memory.lesson is Lesson.MUTE
    machine = Handshake(CLIENT, remote=True, memory=memory)
    machine.start()
    answer(machine, DISCOVER, DISCOVERED)
    machine.was_ready()
    assert memory.lesson is Lesson.NONE


def test_a_server_that_says_that_it_has_both_eras_is_not_remembered_as_modern() -> None:
    machine = by_pipe()
    machine.start()
    assert machine.again(ended_itself=True, read=True)
    machine.start()
    answer(machine, DISCOVER, {**DISCOVERED, "supportedVersions": ["2025-11-25", "2026-07-28"]})
    machine.was_ready()
    assert machine.memory.lesson is Lesson.NONE


EVENTS = st.lists(
    st.sampled_from(
        [
            "timeout",
            "answer",
            "late answer",
            "refuse",
            "refuse modern",
            "refuse older",
            "nonsense",
            "exit",
            "exit unread",
        ]
    ),
    max_size=14,
)


@given(st.sampled_from(list(Lesson)), EVENTS, st.randoms())
def test_no_order_of_answers_timeouts_and_exits_over_a_pipe_leads_into_two_eras(
    lesson: Lesson, events: list[str], rng: random.Random
) -> None:
    """Agreed in the newer era means that no `initialize` was accepted, or may yet be, by the same process."""
    machine = by_pipe(lesson)
    waiting: list[str] = []
    accepted: set[str] = set()
    connections = 0

    def opened() -> Step:
        nonlocal connections
        connections += 1
        waiting.clear()
        accepted.clear()
        return machine.start()

    step = opened()
    for event in [*events, *["refuse"] * 6]:
        if isinstance(step, Send):
            waiting += [ask.method for ask in step.asks]
        elif isinstance(step, Anew):
            step = opened()
            continue
        else:
            break
        if event == "timeout":
            step = machine.on_timeout()
        elif event.startswith("exit"):
            if not machine.again(ended_itself=True, read=event == "exit"):
                return
            step = opened()
        elif not waiting:
            step = Send()
        else:
            method = waiting.pop(0 if event == "answer" else rng.randrange(len(waiting)))
            if event in ("answer", "late answer"):
                accepted.add(method)
                step = answer(machine, method, INITIALIZED if method == INITIALIZE else DISCOVERED)
            elif event == "nonsense":
                step = answer(machine, method, {"hello": 1})
            elif event == "refuse older":
                step = refuse(machine, method, -32602, ["2025-06-18"])
            else:
                step = refuse(machine, method, -32022, ["2026-07-28"] if event == "refuse modern" else None)
    assert connections <= 3
    if isinstance(step, Done):
        if step.agreed.era == "modern":
            assert DISCOVER in accepted
            assert INITIALIZE not in accepted
            assert INITIALIZE not in waiting
        else:
            assert INITIALIZE in accepted
            # It may be in the other era only if it was asked for both: then, if it is of no use, it is asked anew.
            if DISCOVER in machine._asked and machine._refusal is None:
                assert machine.again(ended_itself=False, read=True) or connections == 3 or machine._alone


def test_what_a_server_says_of_itself_that_is_not_understood_is_kept_as_it_came() -> None:
    machine = handshake(protocol="legacy")
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
