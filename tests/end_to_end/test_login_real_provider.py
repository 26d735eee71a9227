"""Logging in at a real authorization server (oidc-provider), for a server on the reference SDK."""

from __future__ import annotations

import contextlib
import json
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from harness import Daemon, RpcError, wait_until
from patience import PATIENCE
from remote_harness import (
    Browser,
    Place,
    Program,
    Provider,
    at_once,
    login,
    oidc_installed,
    place_in,
    remote,
)

LOGIN_NEEDED, NOT_READY = -32007, -32005
KILLS = 20
LONGEST_REFRESH = 0.03

pytestmark = pytest.mark.timeout(600)  # the first test may have to install the provider


@dataclass
class World:
    """A daemon whose only server is behind a real provider, and the browser it opens."""

    daemon: Daemon
    place: Place
    provider: Provider
    server: Program
    browser: Browser

    def write(self, *, browser: Browser | None = None, beat: float = 60.0, **keys: object) -> None:
        """Write moltis.toml: the server `s` with these keys; heartbeats as rare as a test needs them."""
        command = (browser or self.browser).argv
        self.daemon.write(
            {"s": remote(self.server.url, **keys)},
            mcp={"heartbeat_interval_secs": beat, "heartbeat_timeout_secs": min(beat, 5.0)},
            daemon={"browser_command": command},
        )

    def start(self) -> dict[str, object]:
        """Start the daemon and wait until the server is ready, with whatever login that takes."""
        self.daemon.start()
        return self.daemon.wait_for("s", "ready")

    def kept(self) -> str:
        """Give all that is kept of logins."""
        return "\n".join(path.read_text(errors="replace") for path in self.stored())

    def stored(self) -> list[Path]:
        return [path for path in (self.daemon.data_dir / "oauth").rglob("*") if path.is_file()]


@pytest.fixture
def world(daemon: Daemon, folder: Path) -> Iterator[World]:
    with place_in(folder) as place:
        provider = place.provider(oidc_installed())
        yield World(daemon, place, provider, place.protected_server(provider), Browser(daemon.folder))


def short_lived(world: World, secs: int) -> None:
    world.provider.ask(f"ttl?secs={secs}")


# -- from 401 to ready


def test_a_login_needs_nothing_but_the_person(world: World) -> None:
    world.write()
    status = world.start()
    assert (status["auth_state"], status["auth_url"], status["attempts"]) == ("authenticated", None, 0)
    assert status["protocol_version"] == "2026-07-28", "a 401 says nothing of the server's era"
    assert world.daemon.text("s", "echo", message="let in") == "let in"
    assert (world.provider.count("registered"), world.provider.logins) == (1, 1)
    (asked,) = world.browser.opened()
    query = {k: v[0] for k, v in parse_qs(urlsplit(asked).query).items()}
    assert query["resource"] == world.server.url
    assert query["code_challenge_method"] == "S256"
    assert urlsplit(query["redirect_uri"]).hostname == "127.0.0.1"
    assert world.browser.landed() == [(200, "/callback")]
    assert {e["resource"] for e in world.provider.events("granted")} == {world.server.url}
    refused = world.server.events("request", status=401)
    assert len(refused) == 1, "one 401 is enough to know"


def test_nothing_secret_is_shown_and_what_is_kept_is_the_owners_alone(world: World) -> None:
    world.write()
    world.start()
    record = world.kept()
    tokens = {value for value in strings(world.stored()) if len(value) > 20 and not value.startswith("http")}
    assert len(tokens) >= 2, "an access token and a refresh token"
    query = parse_qs(urlsplit(world.browser.opened()[0]).query)
    tokens |= {query["state"][0], query["code_challenge"][0]}
    tokens -= {value for value in tokens if value in world.server.url}
    shown = json.dumps(world.daemon.rpc("mcp.list")) + json.dumps(world.daemon.history("s"))
    shown += world.daemon.cli("status", "s").stdout + world.daemon.cli("why", "s").stdout
    assert world.daemon.stop() == 0
    shown += world.daemon.log_text() + world.daemon.said()
    assert record
    assert [t for t in tokens if t in shown] == []
    assert stat.S_IMODE((world.daemon.data_dir / "oauth").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in world.stored()} == {0o600}


def strings(files: list[Path]) -> Iterator[str]:
    """Give every string value in files of JSON, wherever it is."""

    def inside(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from inside(item)
        elif isinstance(value, list):
            for item in value:
                yield from inside(item)

    for path in files:
        try:
            yield from inside(json.loads(path.read_bytes()))
        except ValueError:
            continue


@pytest.mark.alone
def test_the_url_is_there_within_half_a_second_of_the_401(world: World) -> None:
    world.write(browser=Browser(world.daemon.folder, "--only-record"))
    world.daemon.start()
    url = login(world.daemon, "s")["auth_url"]
    seen = time.time()
    refused = world.server.events("request", status=401)[0]["at"]
    print(f"\nfrom the 401 to the URL in the status: {seen - refused:.3f} s")
    assert seen - refused < 0.5
    status = world.daemon.wait_for("s", "awaiting_auth")
    assert (status["attempts"], status["auth_url"]) == (0, url)
    with pytest.raises(RpcError) as refusal:
        world.daemon.call("s", "echo", message="x")
    assert (refusal.value.code, refusal.value.data["auth_url"]) == (LOGIN_NEEDED, url)
    assert world.daemon.cli("mcp", "call", "s.echo", "message=x").returncode == 8


def test_without_a_browser_the_pasted_url_completes_the_login(world: World) -> None:
    elsewhere = Browser(world.place.folder, "--not-back")
    world.daemon.write({"s": remote(world.server.url)}, daemon={"browser_command": []})
    world.daemon.start()
    elsewhere.go(login(world.daemon, "s")["auth_url"])
    assert world.daemon.rpc("mcp.oauth.complete", callback_url=elsewhere.back())["name"] == "s"
    world.daemon.wait_for("s", "ready")
    with pytest.raises(RpcError):
        world.daemon.rpc("mcp.oauth.complete", callback_url=elsewhere.back())
    assert world.provider.logins == 1


def test_the_command_line_waits_for_the_login(world: World) -> None:
    world.daemon.write({"s": remote(world.server.url)}, daemon={"browser_command": []})
    world.daemon.start()
    url = login(world.daemon, "s")["auth_url"]
    shown = world.daemon.cli("mcp", "reauth", "s", "--no-wait")
    assert url in shown.stdout
    Browser(world.place.folder).go(url)
    world.daemon.wait_for("s", "ready")
    assert world.daemon.cli("status", "s").returncode == 0


# -- the manual's and the other ways in


def test_the_manuals_endpoints_by_hand_skip_discovery_and_registration(world: World) -> None:
    issuer = world.provider.said["issuer"]
    world.write(
        transport="sse",
        oauth={
            "client_id": "registered-by-hand",
            "auth_url": f"{issuer}/auth",
            "token_url": f"{issuer}/token",
            "scopes": ["mcp:read", "mcp:write"],
        },
    )
    world.start()
    assert world.daemon.text("s", "echo", message="x") == "x"
    assert (world.provider.count("registered"), world.provider.logins) == (0, 1)
    assert [e for e in world.server.events("request") if "well-known" in e["path"]] == []
    (authorized,) = world.provider.events("authorized")
    assert (authorized["client"], authorized["scope"]) == ("registered-by-hand", "mcp:read mcp:write")


def test_a_client_id_alone_skips_registration_only(world: World) -> None:
    world.write(oauth={"client_id": "registered-by-hand"})
    world.start()
    assert (world.provider.count("registered"), world.provider.logins) == (0, 1)
    assert [e for e in world.server.events("request") if "well-known" in e["path"]]


def test_a_machine_logs_in_by_itself(world: World) -> None:
    secret = {"client_id": "machine", "client_secret": "machine-secret/with:odd+chars"}
    world.write(oauth={"grant": "client_credentials", "scopes": ["mcp:read"], **secret})
    world.start()
    assert world.daemon.text("s", "echo", message="x") == "x"
    assert world.browser.opened() == []
    assert world.provider.count("granted", type="client_credentials") == 1
    world.server.restart()
    assert world.daemon.text("s", "echo", message="x") == "x"


# -- afterwards


def test_a_restart_of_the_daemon_needs_no_login(world: World) -> None:
    world.write()
    world.start()
    assert world.daemon.stop() == 0
    world.provider.ask("expire")
    world.start()
    assert world.daemon.text("s", "echo", message="again") == "again"
    assert (world.provider.logins, world.provider.refreshes, world.provider.count("registered")) == (1, 1, 1)
    assert len(world.browser.opened()) == 1


def test_after_a_revocation_the_next_401_asks_for_a_login(world: World) -> None:
    world.write()
    world.start()
    world.provider.ask("revoke")
    assert len(world.browser.opened()) == 1, "nothing is asked before a request is refused"
    with pytest.raises(RpcError) as refused:
        world.daemon.call("s", "echo", message="x")
    assert refused.value.code == LOGIN_NEEDED
    wait_until("the person has logged in again", lambda: world.provider.logins == 2)
    world.daemon.wait_for("s", "ready")
    assert world.daemon.text("s", "echo", message="back") == "back"
    status = world.daemon.status("s")
    assert (status["attempts"], len(world.browser.opened())) == (0, 2)
    assert world.provider.count("registered") == 1, "the registration is kept"


def test_a_removed_server_takes_its_tokens_with_it(world: World) -> None:
    world.write()
    world.start()
    world.daemon.rpc("mcp.remove", name="s")
    wait_until("its tokens are revoked", lambda: world.provider.count("destroyed"))
    wait_until("nothing of it is kept", lambda: '"access_token"' not in world.kept())


def test_ten_calls_with_an_expired_token_refresh_it_once(world: World) -> None:
    world.write()
    world.start()
    before = world.provider.refreshes
    world.provider.ask("expire")
    results = at_once(10, lambda n: world.daemon.text("s", "echo", message=str(n)))
    assert results == [str(n) for n in range(10)]
    assert world.provider.refreshes - before == 1
    assert (world.provider.logins, world.provider.reuses()) == (1, [])


def test_a_short_lived_token_is_renewed_before_anyone_is_refused(world: World) -> None:
    short_lived(world, 10)
    world.write(beat=0.5)
    world.start()
    refused = len(world.server.events("request", status=401))
    end = time.monotonic() + 13
    while time.monotonic() < end:
        assert world.daemon.text("s", "echo", message="x") == "x"
        time.sleep(0.1)
    assert len(world.server.events("request", status=401)) == refused
    assert world.provider.refreshes == 1
    assert (world.provider.logins, world.provider.reuses()) == (1, [])


def test_an_outage_of_the_authorization_server_is_no_logout(world: World) -> None:
    world.write()
    world.start()
    world.provider.ask("down?on=1")
    world.provider.ask("expire")
    with pytest.raises(RpcError) as refused:
        world.daemon.call("s", "echo", message="x")
    # The server itself cannot introspect meanwhile: whichever of both speaks first, nobody is asked to log in.
    assert refused.value.code == NOT_READY
    assert world.daemon.status("s")["auth_state"] == "authenticated"
    world.provider.ask("down?on=0")
    wait_until("it works again", lambda: works(world.daemon), every=0.2)
    assert (world.provider.logins, len(world.browser.opened())) == (1, 1)


def works(daemon: Daemon) -> bool:
    try:
        return daemon.text("s", "echo", message="x") == "x"
    except RpcError:
        return False


def test_twenty_kills_amid_refreshes_leave_a_store_that_reads_and_reuse_no_token(world: World) -> None:
    """`kill -9` at a random moment of a refresh; tokens live for one second, refresh tokens rotate and detect reuse."""
    short_lived(world, 1)
    world.write(beat=0.3)
    moments = random.Random(20)
    world.start()
    logins, granted = [], 0
    for _ in range(KILLS):
        logins_before, refreshes_before = world.provider.logins, world.provider.refreshes
        world.provider.ask("expire")
        killed_after = moments.uniform(0, LONGEST_REFRESH)
        at_once(2, partial(call_or_kill, world.daemon, killed_after))
        granted += world.provider.refreshes - refreshes_before
        world.start()
        assert world.daemon.text("s", "echo", message="x") == "x"
        logins.append(world.provider.logins - logins_before)
    print(f"\n{KILLS} kills, {granted} after a grant: {sum(logins)} logins, {len(world.provider.reuses())} reuses")
    assert world.provider.reuses() == []
    assert max(logins) <= 1
    assert [path.name for path in world.stored() if "broken" in path.name] == []
    assert len(world.browser.opened()) == world.provider.logins


def call_or_kill(daemon: Daemon, killed_after: float, n: int) -> None:
    """As the first of two, call, whatever comes of it; as the other, kill the daemon meanwhile."""
    if n == 0:
        with contextlib.suppress(EOFError, OSError, RpcError):
            daemon.text("s", "echo", message="x")
        return
    time.sleep(killed_after)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(PATIENCE)


# -- asked for by a person


def test_fifty_who_ask_for_a_login_at_once_share_one_browser(world: World) -> None:
    world.write(browser=Browser(world.daemon.folder, "--only-record"))
    world.daemon.start()
    login(world.daemon, "s")
    answers = at_once(50, lambda n: world.daemon.rpc("mcp.reauth" if n % 2 else "mcp.oauth.start", name="s"))
    urls = {answer["auth_url"] for answer in answers}
    assert len(urls) == 1
    assert {answer["oauth_pending"] for answer in answers} == {True}
    wait_until("the browser is open", world.browser.opened)
    assert world.browser.opened() == list(urls)
    Browser(world.place.folder).go(urls.pop())
    world.daemon.wait_for("s", "ready")
    assert world.provider.logins == 1


def test_a_person_may_log_in_again_while_all_is_well(world: World) -> None:
    world.write()
    world.start()
    answer = world.daemon.rpc("mcp.reauth", name="s")
    assert answer["oauth_pending"]
    wait_until("logged in again", lambda: world.provider.logins == 2)
    world.daemon.wait_for("s", "ready")
    wait_until("the login is done", lambda: world.daemon.status("s")["auth_state"] == "authenticated")
    assert world.daemon.text("s", "echo", message="x") == "x"
    assert len(world.browser.opened()) == 2


# -- beside the life of the server


def test_a_try_of_other_keys_under_the_same_name_leaves_a_waiting_login_alone(world: World) -> None:
    shy = Browser(world.daemon.folder, "--not-back")
    world.write(browser=shy)
    world.daemon.start()
    url = login(world.daemon, "s")["auth_url"]
    tried = world.daemon.rpc("mcp.test", name="s", url=f"{world.server.url}?another=way")
    assert (tried["ok"], "log in" in tried["error"]) == (False, True)
    assert world.daemon.status("s")["auth_url"] == url
    shy.go(url)
    assert world.daemon.rpc("mcp.oauth.complete", callback_url=shy.back()) == {"ok": True, "name": "s"}
    assert world.daemon.wait_for("s", "ready")["auth_state"] == "authenticated"


@pytest.mark.parametrize("method", ["mcp.stop", "mcp.disable"])
def test_nobody_is_asked_to_log_in_for_a_server_that_is_not_to_run(world: World, method: str) -> None:
    world.provider.ask("down?on=1")
    world.write()
    world.daemon.start().wait_for("s", "awaiting_auth")
    wait_until("it says what is wrong", lambda: world.daemon.status("s")["auth_state"] == "failed")
    world.daemon.rpc(method, name="s")
    world.provider.ask("down?on=0")
    time.sleep(7)  # the first retry would come after 5 s
    assert world.browser.opened() == []
    assert world.daemon.status("s")["auth_state"] == "not_required"
    world.daemon.rpc("mcp.enable" if method == "mcp.disable" else "mcp.start", name="s")
    assert world.daemon.wait_for("s", "ready")["auth_state"] == "authenticated"
