"""Twelve secrets, one in every place a secret can be, and none of them anywhere but in the two stores."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, RpcError, wait_until
from processes import alive

CANARIES = {
    place: f"canary-{place.replace('_', '-')}-9f3Zq+/w=7"
    for place in (
        "env_section", "env_override", "server_env", "header_literal", "header_placeholder", "url_query",
        "url_userinfo", "url_path", "args_placeholder", "oauth_secret", "cwd_placeholder", "printed",
    )
}  # fmt: skip


def filesystem_safe(text: str) -> str:
    return text.replace("/", "_")


CANARIES["cwd_placeholder"] = filesystem_safe(CANARIES["cwd_placeholder"])


def forms(secret: str) -> set[str]:
    """Give what a secret looks like when somebody has encoded it on the way."""
    return {
        secret,
        urllib.parse.quote(secret),
        urllib.parse.quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode().rstrip("="),
        json.dumps(secret)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        repr(secret)[1:-1],
    }


def spilled(text: str) -> list[str]:
    """Name the places whose secret is in `text`; a stem of it counts, for half a secret is a leak as well."""
    found = [place for place, secret in CANARIES.items() if any(form in text for form in forms(secret))]
    return found + [f"a part of {place}" for place in CANARIES if f"canary-{place.replace('_', '-')}" in text]


def canary_configuration(daemon: Daemon) -> None:
    c = CANARIES
    quoted = {place: urllib.parse.quote(secret, safe="") for place, secret in c.items()}
    (daemon.folder / c["cwd_placeholder"]).mkdir()
    leaker = daemon.evil(
        "secret-leaker",
        env={"LITERAL": c["server_env"], "PLACED": "$SECTION", "OVERRIDDEN": "$OVERRIDE", "PRINTED": "$PRINTED"},
        cwd=f"{daemon.folder}/$FOLDER",
    )
    leaker["args"] += ["--mark", "${ARGUMENT}"]
    dying = daemon.evil("secret-leaker", "exit-at-once=1", env={"LITERAL": c["server_env"], "PRINTED": "$PRINTED"})
    servers = {
        "leaker": leaker,
        "dying": dying,
        "missing": daemon.real(f"{daemon.folder}/no-such-program", "$ARGUMENT", env={"K": "$PRINTED"}),
        "remote": {
            "transport": "streamable-http",
            "url": f"http://user:{quoted['url_userinfo']}@127.0.0.1:9/$PATH_PART/mcp?key={quoted['url_query']}&p=$SECTION",
            "headers": {"Authorization": f"Bearer {c['header_literal']}", "X-Key": "${HEADER}"},
            "oauth": {"client_id": "me", "client_secret": c["oauth_secret"]},
        },
        "broken": {"command": "x", "env": {"A": c["server_env"], "B": "$NOT_SET_ANYWHERE"}},
    }
    section = {
        "SECTION": c["env_section"], "PRINTED": c["printed"], "HEADER": c["header_placeholder"],
        "PATH_PART": quoted["url_path"], "ARGUMENT": c["args_placeholder"], "FOLDER": c["cwd_placeholder"],
    }  # fmt: skip
    daemon.write(servers, env=section, daemon={"log_level": "debug"})
    daemon.data_dir.mkdir(mode=0o700)
    (daemon.data_dir / "env.toml").write_text(f'OVERRIDE = "{c["env_override"]}"\n')
    (daemon.data_dir / "env.toml").chmod(0o600)


@pytest.fixture
def spied_on(daemon: Daemon) -> Daemon:
    """A daemon whose every server has said all it knows."""
    canary_configuration(daemon)
    daemon.start().wait_for("leaker", "ready")
    daemon.wait_for("dying", "cooldown")
    daemon.wait_for("missing", "cooldown")
    return daemon


def everything_the_socket_says(daemon: Daemon) -> dict[str, str]:
    said = {}
    with daemon.connect() as client:
        for method, params in [
            ("daemon.status", {}), ("mcp.list", {}), ("mcp.tools", {}), ("mcp.resources", {}), ("mcp.prompts", {}),
            ("logs.tail", {"limit": 10_000}), ("env.list", {}), ("mcp.config.get", {}), ("rpc.discover", {}),
            ("mcp.test", {"name": "dying"}), ("mcp.test", {"name": "remote"}), ("daemon.reload", {}),
            ("mcp.reauth", {"name": "remote"}), ("mcp.start", {"name": "broken"}),
        ]:  # fmt: skip
            said[f"{method} {params}"] = client.call_raw(method, params).decode()
        for name in ("leaker", "dying", "missing", "remote", "broken"):
            for method in ("mcp.status", "mcp.history"):
                said[f"{method} {name}"] = client.call_raw(method, {"name": name}).decode()
            request = {"server": name, "tool": "echo", "arguments": {"message": "hello"}}
            said[f"mcp.call {name}"] = client.call_raw("mcp.call", request).decode()
    return said


def test_no_answer_on_the_socket_holds_a_secret(spied_on: Daemon) -> None:
    said = everything_the_socket_says(spied_on)
    assert {where: found for where, text in said.items() if (found := spilled(text))} == {}
    shown = spied_on.status("remote")
    assert shown["url"].endswith("/$PATH_PART/mcp?key=[REDACTED]&p=$SECTION")
    assert "user" not in shown["url"]
    assert sorted(shown["header_names"]) == ["Authorization", "X-Key"]
    assert sorted(spied_on.status("leaker")["env_names"]) == ["LITERAL", "OVERRIDDEN", "PLACED", "PRINTED"]


def test_what_a_server_prints_is_kept_without_the_secrets_it_knows(spied_on: Daemon) -> None:
    status = spied_on.status("dying")
    wait_until("stderr is logged", lambda: spied_on.records("moltis.mcp.stderr"))
    lines = [r["fields"]["line"] for r in spied_on.records("moltis.mcp.stderr")]
    assert any("[REDACTED]" in line for line in lines)
    assert not spilled(json.dumps([lines, status]))


def test_an_error_that_a_server_fills_with_secrets_is_not_passed_on_by_name(spied_on: Daemon) -> None:
    """A tool's result is the caller's and stays verbatim; an error that the daemon words, logs or keeps is not."""
    with contextlib.suppress(RpcError):
        spied_on.call("leaker", "leak")
    with pytest.raises(RpcError) as raised:
        spied_on.call("leaker", "die", code=1, say=f"last words: {CANARIES['printed']} {CANARIES['server_env']}")
    assert not spilled(str(raised.value))
    assert "last words" in str(raised.value)
    assert not spilled(json.dumps(spied_on.status("leaker")))
    assert not spilled(spied_on.log_text())


def test_no_file_but_the_stores_holds_a_secret(spied_on: Daemon) -> None:
    everything_the_socket_says(spied_on)
    stores = {spied_on.config, spied_on.data_dir / "env.toml"}
    found = {}
    for path in spied_on.folder.rglob("*"):
        if path.is_file() and path not in stores:
            found[str(path)] = spilled(path.read_bytes().decode(errors="replace"))
    assert str(spied_on.log) in found
    assert {path: what for path, what in found.items() if what} == {}


def test_no_argument_or_environment_of_our_own_processes_holds_a_secret(spied_on: Daemon) -> None:
    pids = spied_on.own_pids()
    assert len(pids) >= 2
    for pid in pids:
        assert alive(pid)
        for name in ("cmdline", "environ"):
            assert not spilled(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")), (pid, name)


@pytest.mark.parametrize(
    "words",
    [
        ["status"], ["status", "remote"], ["status", "--json"], ["mcp", "list"], ["mcp", "get", "remote"],
        ["mcp", "get", "leaker", "--json"], ["mcp", "tools"], ["why", "dying"], ["why", "missing"],
        ["logs", "-n", "1000"], ["config", "show"], ["config", "check"], ["env", "list"], ["doctor"],
        ["mcp", "test", "dying"], ["reload"], ["mcp", "call", "dying.echo", "message=x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_prints_a_secret(spied_on: Daemon, words: list[str]) -> None:
    done = spied_on.cli(*words)
    assert "Traceback" not in done.stderr
    assert not spilled(done.stdout + done.stderr), done.stdout + done.stderr
    assert done.stdout + done.stderr


def test_no_event_of_a_subscription_holds_a_secret(spied_on: Daemon) -> None:
    with spied_on.connect(timeout_secs=5) as client:
        client.call("mcp.subscribe")
        spied_on.rpc("mcp.restart", name="dying")
        spied_on.rpc("mcp.restart", name="leaker")
        seen: list[Any] = [client.read_line().decode() for _ in range(8)]
    assert not spilled("".join(seen))
    assert any("leaker" in s for s in seen)


def test_a_line_that_does_not_parse_is_not_quoted_in_the_error(daemon: Daemon) -> None:
    secret = CANARIES["env_section"]
    daemon.rewrite(f'[env]\nKEY = "{secret}" "{secret}"\n')
    assert daemon.spawn().wait(10) == 6
    assert not spilled(daemon.said())
    checked = daemon.cli("config", "check")
    assert checked.returncode == 6
    assert not spilled(checked.stdout + checked.stderr)


def test_secrets_stay_hidden_after_a_reload_replaced_them(spied_on: Daemon) -> None:
    """The old value is in old stderr lines, in history and in the process that has not been restarted yet."""
    old = CANARIES["printed"]
    text = spied_on.config.read_text()
    spied_on.rewrite(text.replace(old, "another-value-altogether"))
    spied_on.rpc("daemon.reload")
    spied_on.wait_for("leaker", "ready")
    said = everything_the_socket_says(spied_on)
    for where, answer in said.items():
        assert old not in answer, where
        assert "another-value-altogether" not in answer, where
    assert old not in spied_on.log_text()
    assert "another-value-altogether" not in spied_on.log_text()
