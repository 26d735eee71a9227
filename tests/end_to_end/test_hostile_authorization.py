"""What a hostile server or authorization server can make the daemon fetch, open in a browser, and post: the table.

`pytest -s` prints it. Every mode runs at the same time, as a server of its own in one daemon.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import Daemon, RpcError, wait_until
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


@dataclass(frozen=True)
class Account:
    """What came of one mode. `fetched` has no order and no repetitions: what is broken for now is tried again later.

    opened: how often a browser was started. posted: paths at the authorization servers, in order.
    """

    state: str
    fetched: tuple[str, ...] = ()
    opened: int = 0
    posted: tuple[str, ...] = ()
    canary: int = 0

    def row(self) -> str:
        lists = (" ".join(self.fetched) or "-", self.opened, " ".join(self.posted) or "-", self.canary, self.state)
        return " | ".join(map(str, lists))


LOGGED_IN = Account("authenticated", ("as", "prm"), 1, ("/register", "/token"))
NO_RESOURCE = Account("failed", ("prm",))
NO_DOCUMENT = Account("failed", ("prm", "prm-root"))
"""What is no document at all sends one to the other address of the same party, and to nobody else."""
NO_ISSUER = Account("failed", ("as", "prm"))
NO_CLIENT = Account("failed", ("as", "prm"), 0, ("/register",))
NOT_BACK = Account("awaiting_browser", ("as", "prm"), 1, ("/register",))
NO_TOKEN = Account("failed", ("as", "prm"), 1, ("/register", "/token"))
OLD = ("as", "prm", "prm-root")

EXPECTED: dict[str, Account] = {
    "honest": LOGGED_IN,
    "honest-without-challenge": LOGGED_IN,
    # An address that must not be used is as good as none: the server's own is asked.
    "challenge-file": LOGGED_IN,
    "challenge-cloud-metadata": LOGGED_IN,
    "challenge-cloud-metadata-tls": LOGGED_IN,
    "challenge-plain-http": LOGGED_IN,
    "challenge-userinfo": LOGGED_IN,
    "challenge-decimal": LOGGED_IN,
    "challenge-short": LOGGED_IN,
    "challenge-unspecified": LOGGED_IN,
    "challenge-nat64": LOGGED_IN,
    "challenge-garbage": LOGGED_IN,
    "resource-elsewhere": NO_RESOURCE,
    "resource-sibling": NO_RESOURCE,
    "resource-array": NO_DOCUMENT,
    "resource-without-servers": NO_RESOURCE,
    "resource-servers-no-text": NO_RESOURCE,
    "resource-html": NO_DOCUMENT,
    "resource-huge": NO_DOCUMENT,
    "resource-gzip-bomb": NO_DOCUMENT,
    "resource-drips": NO_DOCUMENT,
    "resource-loops": Account("failed", OLD),
    "resource-redirects-inside": NO_DOCUMENT,
    "resource-issuer-cloud": NO_RESOURCE,
    "resource-issuer-file": NO_RESOURCE,
    "issuer-other": NO_ISSUER,
    # One URL, but this one calls itself otherwise when it sends the person back: no answer to our question.
    "issuer-slash": NOT_BACK,
    "issuer-case": NO_ISSUER,
    "issuer-missing": NO_ISSUER,
    "pkce-missing": NO_ISSUER,
    "pkce-plain": NO_ISSUER,
    "authorize-javascript": NO_ISSUER,
    "authorize-data": NO_ISSUER,
    "authorize-file": NO_ISSUER,
    "authorize-plain-http": NO_ISSUER,
    "authorize-userinfo": NO_ISSUER,
    "authorize-option": NO_ISSUER,
    "authorize-newline": NO_ISSUER,
    "authorize-shell": NO_ISSUER,
    "authorize-query": LOGGED_IN,
    "token-cloud": NO_ISSUER,
    "token-inside": NO_ISSUER,
    "register-javascript": NO_ISSUER,
    "register-inside": NO_ISSUER,
    "metadata-huge": Account("failed", ("as", "oidc", "prm")),
    "metadata-html": Account("failed", ("as", "oidc", "prm")),
    "issuer-dead": NO_RESOURCE,
    "old": Account("authenticated", OLD, 1, ("/register", "/token")),
    "old-issuer-other": Account("failed", OLD),
    "old-pkce-missing": Account("failed", OLD),
    "old-token-inside": Account("failed", OLD),
    "register-refused": NO_CLIENT,
    "register-busy": NO_CLIENT,
    "register-other-redirect": NO_CLIENT,
    "register-redirected": NO_CLIENT,
    "register-html": NO_CLIENT,
    # Whoever answers wrongly is not the one that was asked: the login still waits for that one.
    "callback-other-state": NOT_BACK,
    "callback-no-state": NOT_BACK,
    "callback-other-iss": NOT_BACK,
    "callback-no-iss": NOT_BACK,
    "callback-two-codes": NOT_BACK,
    "callback-error-other-iss": NOT_BACK,
    "callback-denied": Account("failed", ("as", "prm"), 1, ("/register",)),
    "token-redirected": NO_TOKEN,
    "token-server-error": NO_TOKEN,
    "token-html": NO_TOKEN,
    "token-huge": NO_TOKEN,
    "token-drips": NO_TOKEN,
    "token-mac": NO_TOKEN,
    "token-missing": NO_TOKEN,
    "token-header-injection": NO_TOKEN,
    "token-strange-expiry": LOGGED_IN,
    "token-negative-expiry": LOGGED_IN,
    "token-refused": NO_TOKEN,
    "refuses-fresh-tokens": NO_TOKEN,
    # A login and three for more; where each asks for something else, no more than five an hour.
    "wants-a-scope-for-ever": Account("failed", ("as", "prm"), 4, ("/register", *["/token"] * 4)),
    "wants-ever-more-scopes": Account("failed", ("as", "prm"), 5, ("/register", *["/token"] * 5)),
    "switches-issuer": Account(
        "authenticated", ("as", "prm", "second:as"), 2, ("/register", "/token", "second:/register", "second:/token")
    ),
}

WAITS = Account("awaiting_browser", ("as", "prm"), 1, ("/register",))
EXPECTED_INSIDE = {
    "honest": WAITS,
    "inside-challenge": WAITS,
    "inside-challenge-tls": WAITS,
    "inside-challenge-by-name": WAITS,
    "inside-challenge-mapped": WAITS,
    "inside-redirect": NO_DOCUMENT,
    "inside-issuer": NO_RESOURCE,
    "inside-issuer-tls": NO_RESOURCE,
    "inside-registration": NO_ISSUER,
    "inside-token": NO_ISSUER,
}


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


class Watch:
    """What has come of every mode so far."""

    def __init__(self, daemon: Daemon, hostile: Program, browser: Browser) -> None:
        self._daemon = daemon
        self._hostile = hostile
        self._browser = browser
        self._failed: set[str] = set()
        self._last: dict[str, Account] = {}
        self._since = 0.0

    def settle(self) -> dict[str, Account]:
        """Wait until nothing new has happened for a while, and give what has come of every mode."""
        wait_until("all has come to rest", self._rests, SETTLED_WITHIN, every=0.2, tell=self._daemon.states)
        return self._last

    def _rests(self) -> bool:
        statuses = {s["name"]: s for s in self._daemon.rpc("mcp.list")}
        self._failed |= {name for name, s in statuses.items() if s["auth_state"] == "failed"}
        now = {mode: self._account(mode, statuses[mode]) for mode in self._hostile.said}
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        starting = any(s["state"] in ("starting", "initializing") for s in statuses.values())
        asking = any(a.state == "asking" for a in now.values())
        redeeming = any(a.state == "awaiting_browser" and a.posted[-1:] == ("/token",) for a in now.values())
        return not (starting or asking or redeeming) and time.monotonic() - self._since > QUIET_FOR

    def _account(self, mode: str, status: dict[str, Any]) -> Account:
        said = self._hostile.said[mode]
        own = self._hostile.events(mode=mode)
        state = status["auth_state"]
        if state == "awaiting_browser" and status["auth_url"] is None:
            state = "failed" if mode in self._failed else "asking"  # what is broken for now is tried again
        origins = {said["issuer"], said["second"], said["canary"], said["url"].removesuffix("/mcp")}
        return Account(
            state=state,
            fetched=tuple(sorted({short(e) for e in own if e.get("method") == "GET" and fetched(e)})),
            opened=sum(any(o.partition("//")[2] in url for o in origins) for url in self._browser.opened()),
            posted=tuple(short(e) for e in own if e.get("method") == "POST" and e["path"] != "/mcp"),
            canary=sum(e["role"] == "canary" for e in own),
        )


def fetched(event: dict[str, Any]) -> bool:
    """Say whether a GET is discovery: the browser visits what is at /authorize, the session opens /mcp."""
    return not event["path"].startswith(("/authorize", "/mcp"))


def short(event: dict[str, Any]) -> str:
    name = SHORT.get(event["path"], event["path"])
    return f"second:{name}" if event["role"] == "second" else name


def table(accounts: dict[str, Account], expected: dict[str, Account]) -> str:
    lines = ["| mode | fetched | opened | posted | canary | login | as expected |", "|---|---|---|---|---|---|---|"]
    for mode, account in accounts.items():
        wanted = expected.get(mode)
        verdict = "yes" if account == wanted else f"no: {wanted.row() if wanted else 'not in the table'}"
        lines.append(f"| {mode} | {account.row()} | {verdict} |")
    return "\n".join(lines)


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
    watch = Watch(daemon, hostile, browser)
    watch.settle()
    with pytest.raises(RpcError):
        daemon.call("switches-issuer", "echo")
    accounts = watch.settle()
    print("\n" + table(accounts, EXPECTED))
    # What is no JSON is an outage, after which it registers again every 20 s at most.
    accounts["register-html"] = replace(accounts["register-html"], posted=accounts["register-html"].posted[:1])
    assert {mode: a for mode, a in accounts.items() if a != EXPECTED.get(mode)} == {}
    assert resident_bytes(daemon.own_pids()) - before < 48 * MIB
    assert_nothing_strange_was_opened(hostile, browser)
    assert_secrets_went_home(hostile)
    assert not list(daemon.folder.rglob("pwned"))
    assert daemon.text("calm", "echo", message="x") == "x"
    assert daemon.stop() == 0
    assert_nothing_secret_in(daemon.log_text() + daemon.said(), hostile, browser)


def assert_nothing_strange_was_opened(hostile: Program, browser: Browser) -> None:
    """Every URL is an authorization request to the issuer of some mode, made anew, with PKCE."""
    issuers = {origin for said in hostile.said.values() for origin in (said["issuer"], said["second"])}
    issuers.add(hostile.said["old"]["url"].removesuffix("/mcp"))
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
        if event["path"] == "/mcp":
            assert "code_verifier" not in everything
            assert "-refresh-" not in everything
        if event["path"] != "/mcp":
            assert "authorization" not in {name.lower() for name in event["headers"]}, event


def assert_nothing_secret_in(text: str, hostile: Program, browser: Browser) -> None:
    secrets = set()
    for event in hostile.events():
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


def test_a_server_elsewhere_cannot_point_the_daemon_into_its_own_machine(daemon: Daemon, place: Place) -> None:
    address = own_address()
    certificate = certificate_for(address, daemon.folder)
    hostile = place.hostile("--host", address, "--certificate", str(certificate), *EXPECTED_INSIDE)
    browser = Browser(daemon.folder, "--only-record")
    daemon.write(
        {mode: remote(said["url"], ca_file=str(certificate)) for mode, said in hostile.said.items()},
        mcp={"heartbeat_interval_secs": 60.0, "heartbeat_timeout_secs": 10.0},
        daemon={"browser_command": browser.argv},
    )
    daemon.start()
    accounts = Watch(daemon, hostile, browser).settle()
    print("\n" + table(accounts, EXPECTED_INSIDE))
    assert {mode: a for mode, a in accounts.items() if a != EXPECTED_INSIDE[mode]} == {}


def test_a_certificate_nobody_vouches_for_ends_the_connection(daemon: Daemon, place: Place) -> None:
    address = own_address()
    certificate = certificate_for(address, daemon.folder)
    hostile = place.hostile("--host", address, "--certificate", str(certificate), "honest")
    daemon.write({"s": remote(hostile.said["honest"]["url"])})
    assert "certificate" in daemon.start().wait_for("s", "backoff")["last_error"]["message"]
    assert hostile.events() == []
