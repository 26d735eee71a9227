"""What a hostile server or authorization server can make the daemon fetch, open in a browser, and post: the table.

`pytest -s` prints it. Every mode runs at the same time, as a server of its own in one daemon.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import Daemon, wait_until
from processes import resident_bytes
from remote_harness import Browser, Place, Program, place_in, remote

MIB = 1 << 20
SETTLED_WITHIN = 40.0
QUIET_FOR = 1.5
SHORT = {
    "/.well-known/oauth-protected-resource/mcp": "prm",
    "/.well-known/oauth-protected-resource": "prm-root",
    "/.well-known/oauth-authorization-server": "as",
    "/.well-known/openid-configuration": "oidc",
}
ISSUER = ("prm", "as")  # what is fetched on the way to a login
LOGIN = ("/register", "/token")  # what is posted in one


@dataclass(frozen=True)
class Account:
    """What came of one mode. `fetched` has no order and no repetitions: what is broken for now is tried again later.

    opened: how often a browser was started. posted: paths at the authorization servers, in order.
    """

    state: str
    fetched: tuple[str, ...] = ()
    opened: int = 0
    posted: tuple[str, ...] = ()
    canary: int = field(default=0)

    def row(self) -> str:
        lists = (" ".join(self.fetched) or "-", self.opened, " ".join(self.posted) or "-", self.canary, self.state)
        return " | ".join(map(str, lists))


EXPECTED: dict[str, Account] = {}


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


def seen(daemon: Daemon, hostile: Program, browser: Browser) -> dict[str, Account]:
    """Give what has come of every mode so far."""
    events = hostile.events()
    opened = browser.opened()
    accounts = {}
    for mode, said in hostile.said.items():
        own = [e for e in events if e["mode"] == mode]
        origins = {said["issuer"], said["second"], said["canary"], said["url"].removesuffix("/mcp")}
        fetched = {short(e) for e in own if e.get("method") == "GET" and fetchable(e)}
        accounts[mode] = Account(
            state=daemon.status(mode)["auth_state"],
            fetched=tuple(sorted(fetched)),
            opened=sum(any(origin.partition("//")[2] in url for origin in origins) for url in opened),
            posted=tuple(short(e) for e in own if e.get("method") == "POST" and e["role"] != "server"),
            canary=sum(e["role"] == "canary" for e in own),
        )
    return accounts


def fetchable(event: dict[str, Any]) -> bool:
    """Say whether a GET is the daemon's: the browser visits what is at /authorize, the session opens /mcp."""
    return not event["path"].startswith(("/authorize", "/mcp"))


def short(event: dict[str, Any]) -> str:
    name = SHORT.get(event["path"], event["path"])
    return name if event["role"] in ("server", "issuer") else f"{event['role']}:{name}"


def settled(daemon: Daemon, hostile: Program, browser: Browser) -> dict[str, Account]:
    """Wait until nothing new has happened for a while, and give what has come of every mode."""
    last: list[Any] = [None, 0.0]

    def quiet() -> bool:
        now = seen(daemon, hostile, browser)
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        busy = {s["name"] for s in daemon.rpc("mcp.list") if s["state"] in ("starting", "initializing")}
        return not busy and time.monotonic() - last[1] > QUIET_FOR

    wait_until("everything has come to rest", quiet, SETTLED_WITHIN, every=0.2, tell=daemon.states)
    found: dict[str, Account] = last[0]
    return found


def table(accounts: dict[str, Account], expected: dict[str, Account]) -> str:
    lines = ["| mode | fetched | opened | posted | canary | login | as expected |", "|---|---|---|---|---|---|---|"]
    for mode, account in accounts.items():
        wanted = expected.get(mode)
        verdict = "yes" if account == wanted else f"no: {wanted.row() if wanted else 'not in the table'}"
        lines.append(f"| {mode} | {account.row()} | {verdict} |")
    return "\n".join(lines)


@pytest.mark.timeout(180)
def test_no_mode_fetches_opens_or_posts_more_than_it_may(daemon: Daemon, place: Place) -> None:
    hostile, browser = place.hostile(), Browser(daemon.folder)
    assert len(hostile.said) >= 25
    entries = {mode: remote(said["url"]) for mode, said in hostile.said.items()}
    daemon.write(
        {**entries, "calm": remote(place.evil().url)},
        mcp={"heartbeat_interval_secs": 60.0, "heartbeat_timeout_secs": 10.0, "startup_timeout_secs": 30.0},
        daemon={"browser_command": browser.argv},
    )
    daemon.start().wait_for("calm", "ready")
    before = resident_bytes(daemon.own_pids())
    accounts = settled(daemon, hostile, browser)
    print("\n" + table(accounts, EXPECTED))
    assert {mode: a for mode, a in accounts.items() if a != EXPECTED.get(mode)} == {}
    assert resident_bytes(daemon.own_pids()) - before < 48 * MIB
    assert_nothing_strange_was_opened(hostile, browser)
    assert_secrets_went_home(hostile)
    assert not list(daemon.folder.rglob("pwned"))
    assert daemon.text("calm", "echo", message="x") == "x"
    assert daemon.stop() == 0
    assert_nothing_secret_in(daemon.log.read_text() + daemon.said(), hostile, browser)


def assert_nothing_strange_was_opened(hostile: Program, browser: Browser) -> None:
    """Every URL is an authorization request to the issuer of some mode, made anew, with PKCE."""
    issuers = {said["issuer"] for said in hostile.said.values()} | {said["second"] for said in hostile.said.values()}
    challenges, states = set(), set()
    for url in browser.opened():
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}" in issuers
        assert url.count("?") == 1
        query = parse_qs(parts.query, strict_parsing=True)
        assert query["code_challenge_method"] == ["S256"]
        assert all(
            len(query[name]) == 1 for name in ("state", "code_challenge", "redirect_uri", "client_id", "resource")
        )
        challenges.add(query["code_challenge"][0])
        states.add(query["state"][0])
    assert len(challenges) == len(states) == len(browser.opened())


def assert_secrets_went_home(hostile: Program) -> None:
    """No code, verifier, refresh token or access token of a mode's server is anywhere but at the one that gave it."""
    for event in hostile.events():
        if event["role"] == "canary" or "headers" not in event:
            continue
        everything = json.dumps([event["query"], event["headers"], event["body"]])
        if event["role"] == "second":
            assert "issuer-" not in everything, event["mode"]
        if event["role"] == "server":
            assert "code_verifier" not in everything
            assert "-refresh-" not in everything
        if event["path"] != "/mcp":
            assert "authorization" not in {name.lower() for name in event["headers"]}, event


def assert_nothing_secret_in(text: str, hostile: Program, browser: Browser) -> None:
    secrets = set()
    for event in hostile.events("request") + hostile.events():
        for name, values in parse_qs(event.get("body", "")).items():
            if name in ("code", "code_verifier", "refresh_token"):
                secrets |= set(values)
    for url in browser.opened():
        secrets |= set(parse_qs(urlsplit(url).query)["state"])
    assert secrets
    assert [secret for secret in secrets if secret in text] == []


# -- a server that is not on the loopback points there


def own_address() -> str:
    """Give an address of this machine that is not on the loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        address: str = probe.getsockname()[0]
        return address


def certificate_for(address: str, folder: Path) -> Path:
    """Make a self-signed certificate for an address; its key is in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moltis tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path


INSIDE = ("challenge", "challenge-tls", "challenge-by-name", "challenge-mapped", "redirect", "issuer", "issuer-tls")
LATER = ("registration", "token")


@pytest.mark.timeout(180)
def test_a_server_elsewhere_cannot_point_the_daemon_into_its_own_machine(daemon: Daemon, place: Place) -> None:
    address = own_address()
    assert address not in ("127.0.0.1", "0.0.0.0")
    certificate = certificate_for(address, daemon.folder)
    modes = [f"inside-{name}" for name in (*INSIDE, *LATER)]
    hostile = place.hostile("--host", address, "--certificate", str(certificate), "honest", *modes)
    browser = Browser(daemon.folder, "--only-record")
    daemon.write(
        {mode: remote(said["url"], ca_file=str(certificate)) for mode, said in hostile.said.items()},
        mcp={"heartbeat_interval_secs": 60.0, "heartbeat_timeout_secs": 10.0},
        daemon={"browser_command": browser.argv},
    )
    daemon.start()
    accounts = settled(daemon, hostile, browser)
    print("\n" + table(accounts, accounts))
    assert {mode: a.canary for mode, a in accounts.items()} == dict.fromkeys(accounts, 0)
    assert {mode: a.opened for mode, a in accounts.items()} == {**dict.fromkeys(accounts, 0), "honest": 1}
    assert {mode for mode, a in accounts.items() if a.state != "failed"} == {"honest"}
    assert accounts["honest"].fetched == ISSUER
    assert all("/token" not in a.posted for a in accounts.values())


def test_a_certificate_nobody_vouches_for_ends_the_connection(daemon: Daemon, place: Place) -> None:
    address = own_address()
    certificate = certificate_for(address, daemon.folder)
    hostile = place.hostile("--host", address, "--certificate", str(certificate), "honest")
    daemon.write({"s": remote(hostile.said["honest"]["url"])})
    assert "certificate" in daemon.start().wait_for("s", "backoff")["last_error"]["message"]
    assert hostile.events() == []
