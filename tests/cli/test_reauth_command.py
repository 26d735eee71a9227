"""`moltis mcp reauth`: what a person reads while the login goes on elsewhere, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon, RpcError
from samples import failure, server

Start = Callable[[dict[str, Any]], FakeDaemon]

URL = "https://as.example/authorize?client_id=a&redirect_uri=http%3A%2F%2F127.0.0.1%3A41217%2Fcallback&state=s"
PENDING = {"ok": True, "oauth_pending": True, "auth_url": URL}
REFUSED = failure(kind="login_failed", message="as.example refuses: invalid_client", exit_code=None)


def login(auth_state: str, **more: Any) -> dict[str, Any]:
    state = "ready" if auth_state == "authenticated" else "awaiting_auth"
    url = URL if auth_state == "awaiting_browser" else None
    return server("x", state, transport="streamable-http", auth_state=auth_state, **{"auth_url": url, **more})


def one_after_another(*states: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answer with each in turn, and with the last from then on."""
    left: Iterator[dict[str, Any]] = iter(states[:-1])
    return lambda params: next(left, states[-1])


def waiting(*states: dict[str, Any]) -> dict[str, Any]:
    return {"mcp.reauth": PENDING, "mcp.status": one_after_another(login("awaiting_browser"), *states)}


def test_the_address_alone_is_on_stdout_and_the_waiting_ends_with_the_login(shell: Shell, daemon: Start) -> None:
    fake = daemon(waiting(login("awaiting_browser"), login("authenticated")))
    done = shell.moltis("mcp", "reauth", "x")
    assert (done.returncode, done.stdout) == (0, f"{URL}\n")
    assert done.stderr.endswith("moltis: x is logged in\n")
    assert fake.asked == [("mcp.reauth", {"name": "x"})] + [("mcp.status", {"name": "x"})] * 3


def test_it_says_how_to_go_on_from_another_machine(shell: Shell, daemon: Start) -> None:
    daemon(waiting(login("authenticated")))
    said = shell.moltis("mcp", "reauth", "x").stderr
    assert "moltis mcp reauth x --callback 'ADDRESS'" in said
    assert "ssh -L 41217:127.0.0.1:41217 THIS-MACHINE" in said


@pytest.mark.parametrize("url", ["https://as.example/a", "https://as.example/a?redirect_uri=http://h:x/", "https://[/"])
def test_an_address_that_names_no_port_gets_no_advice_about_ports(shell: Shell, daemon: Start, url: str) -> None:
    daemon({"mcp.reauth": {**PENDING, "auth_url": url}})
    done = shell.moltis("mcp", "reauth", "x", "--no-wait")
    assert (done.returncode, done.stdout) == (0, f"{url}\n")
    assert "ssh" not in done.stderr


def test_no_wait_asks_for_nothing_more(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.reauth": PENDING})
    done = shell.moltis("mcp", "reauth", "x", "--no-wait")
    assert (done.returncode, done.stdout) == (0, f"{URL}\n")
    assert [method for method, _ in fake.asked] == ["mcp.reauth"]


def test_json_is_the_result_alone_and_the_exit_code_is_the_logins(shell: Shell, daemon: Start) -> None:
    fake = daemon(waiting(login("authenticated")))
    done = shell.moltis("mcp", "reauth", "x", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, PENDING)
    fake.replies["mcp.status"] = login("failed", last_error=REFUSED)
    done = shell.moltis("mcp", "reauth", "x", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, PENDING)
    assert json.loads(shell.moltis("mcp", "reauth", "x", "--json", "--no-wait").stdout) == PENDING


def test_a_login_that_no_person_is_needed_for_is_done_at_once(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.reauth": {"ok": True, "oauth_pending": False, "auth_url": None}})
    done = shell.moltis("mcp", "reauth", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "moltis: x is logged in\n")
    assert len(fake.asked) == 1


def test_an_address_that_takes_its_time_is_printed_when_it_is_there(shell: Shell, daemon: Start) -> None:
    unready = {**PENDING, "auth_url": None}
    fake = daemon(
        {
            "mcp.reauth": unready,
            "mcp.status": one_after_another(
                login("awaiting_browser", auth_url=None), login("awaiting_browser"), login("authenticated")
            ),
        }
    )
    done = shell.moltis("mcp", "reauth", "x")
    assert (done.returncode, done.stdout) == (0, f"{URL}\n")
    done = shell.moltis("mcp", "reauth", "x", "--no-wait")
    assert (done.returncode, done.stdout) == (0, "")
    assert "moltis status x" in done.stderr
    fake.replies["mcp.status"] = one_after_another(login("awaiting_browser"), login("authenticated"))
    assert json.loads(shell.moltis("mcp", "reauth", "x", "--json").stdout) == unready


def test_a_login_that_fails_is_exit_1_with_the_daemons_reason(shell: Shell, daemon: Start) -> None:
    fake = daemon(waiting(login("failed", last_error=REFUSED)))
    done = shell.moltis("mcp", "reauth", "x")
    assert done.returncode == 1
    assert "moltis: the login to x failed: as.example refuses: invalid_client\n" in done.stderr
    assert done.stderr.endswith("hint: to try again: moltis mcp reauth x\n")
    fake.replies["mcp.status"] = login("failed", last_error=failure())
    assert "moltis: the login to x failed\n" in shell.moltis("mcp", "reauth", "x").stderr


def test_an_answer_that_is_refused_is_told_once_and_the_waiting_goes_on(shell: Shell, daemon: Start) -> None:
    refused = login("awaiting_browser", last_error=failure(kind="login_failed", message="it is of\nevil.example"))
    daemon(waiting(refused, refused, login("authenticated")))
    done = shell.moltis("mcp", "reauth", "x")
    assert done.returncode == 0
    assert done.stderr.count("an answer was refused, and the login still waits: it is of evil.example\n") == 1


def test_a_server_that_wants_no_login_any_more_is_waited_for_no_longer(shell: Shell, daemon: Start) -> None:
    daemon(waiting(login("not_required")))
    done = shell.moltis("mcp", "reauth", "x")
    assert done.returncode == 0
    assert "wants no login any more" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RpcError(-32602, "server 'x' is a local program and needs no login"), 2),
        (RpcError(-32004, "no server is called 'x'"), 4),
        (RpcError(-32005, "its authorization server cannot be reached", kind="not_ready", state="awaiting_auth"), 1),
    ],
    ids=["local", "unknown", "unreachable"],
)
def test_what_the_daemon_refuses_is_told_and_nothing_is_waited_for(
    shell: Shell, daemon: Start, error: RpcError, code: int
) -> None:
    fake = daemon({"mcp.reauth": error})
    done = shell.moltis("mcp", "reauth", "x")
    assert (done.returncode, done.stdout) == (code, "")
    assert str(error) in done.stderr
    assert len(fake.asked) == 1


def test_a_server_that_is_removed_meanwhile_ends_the_waiting(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.reauth": PENDING, "mcp.status": RpcError(-32004, "no server is called 'x'")})
    assert shell.moltis("mcp", "reauth", "x").returncode == 4


def test_without_a_daemon_it_ends_as_every_command_does(shell: Shell) -> None:
    assert shell.moltis("mcp", "reauth", "x").returncode == 3
    assert shell.moltis("mcp", "reauth", "x", "--callback", "http://127.0.0.1:1/callback?code=c").returncode == 3


def test_ctrl_c_ends_the_waiting_and_says_that_the_login_goes_on(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.reauth": PENDING, "mcp.status": login("awaiting_browser")})
    command = shell.command("mcp", "reauth", "x")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell.environ, cwd=shell.home
    ) as process:
        assert process.stderr is not None
        said = ""
        while "waiting for the login" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, f"{URL}\n")
    assert rest.strip() == "moltis: the login can still be completed; moltis status x shows how it stands"


CALLBACK = "http://127.0.0.1:41217/callback?code=c&state=s"


@pytest.mark.parametrize(
    ("word", "stdin"), [(CALLBACK, ""), ("-", f" {CALLBACK}\n"), (f"{CALLBACK} ", "")], ids=["word", "stdin", "space"]
)
def test_a_pasted_address_completes_the_login(shell: Shell, daemon: Start, word: str, stdin: str) -> None:
    fake = daemon({"mcp.oauth.complete": {"ok": True, "name": "x"}})
    done = shell.moltis("mcp", "reauth", "x", "--callback", word, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "moltis: x is logged in\n")
    assert fake.asked == [("mcp.oauth.complete", {"callback_url": CALLBACK})]
    done = shell.moltis("mcp", "reauth", "x", "--callback", word, "--json", stdin=stdin)
    assert json.loads(done.stdout) == {"ok": True, "name": "x"}


def test_a_pasted_address_of_another_login_is_told_by_its_name(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.oauth.complete": {"ok": True, "name": "y"}})
    assert shell.moltis("mcp", "reauth", "x", "--callback", CALLBACK).stderr == "moltis: y is logged in\n"


@pytest.mark.parametrize("word", ["", " ", "-"])
def test_no_address_at_all_is_a_mistake_of_usage(shell: Shell, daemon: Start, word: str) -> None:
    fake = daemon({})
    assert shell.moltis("mcp", "reauth", "x", "--callback", word).returncode == 2
    assert fake.asked == []


def test_a_pasted_address_that_fits_no_login_is_refused_without_repeating_it(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.oauth.complete": RpcError(-32602, "no login is waiting for this", hint="moltis mcp reauth NAME")})
    done = shell.moltis("mcp", "reauth", "x", "--callback", CALLBACK)
    assert done.returncode == 2
    assert "code=c" not in done.stdout + done.stderr


def test_the_rows_of_servers_that_need_a_login_say_so_and_name_the_command(shell: Shell, daemon: Start) -> None:
    servers = [login("awaiting_browser"), {**login("failed", last_error=REFUSED), "name": "y"}]
    daemon({"daemon.status": {}, "mcp.list": servers})
    rows = shell.moltis("mcp", "list").stdout.splitlines()[1:]
    assert "awaiting_auth, login needed" in rows[0]
    assert rows[0].endswith("moltis mcp reauth x")
    assert "awaiting_auth, login failed: as.example refuses: invalid_client" in rows[1]
    assert rows[1].endswith("moltis mcp reauth y")


def test_the_status_of_a_server_shows_where_to_log_in(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.status": login("awaiting_browser")})
    assert URL in shell.moltis("status", "x").stdout
