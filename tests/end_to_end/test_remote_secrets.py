"""Some thirty secrets of remote servers and logins, and none of them anywhere but in the stores, whatever goes wrong.

Whatever the configuration or a server says in confidence begins with `canary-NAME-`, so that half of it is found as
well; what moltis makes up (state, verifier, assertion) is known from what it sent. One daemon has a server for each
thing that can go wrong, and each server secrets of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import PYTHON, SERVERS, Daemon, RpcError, wait_until
from processes import descendants
from remote_harness import Browser, Place, Program, free_port, login, place_in, remote
from test_hostile_authorization import certificate_for

SPY = """import json, os, sys
row = {"argv": open("/proc/self/cmdline").read().split(chr(0))[:-1], "environ": dict(os.environ)}
os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), json.dumps(row).encode() + b"\\n")
os.execv(sys.argv[2], sys.argv[2:])"""
"""Notes what a browser command is given, and becomes the browser."""

TAIL = "+/w=9f3Zq"
WITH_URL = ("mcp.status", "mcp.list", "mcp.reauth", "event auth", "event snapshot", "moltis status", "moltis mcp reauth")
"""Who may show the URL of a login. An error that says that a login is needed may too, as its `data.auth_url`."""

MODES = {
    "pasted": "authorize=stay", "parts": "authorize=stay", "refused": "authorize=stay",
    "exchange_denied": "token=denied", "exchange_html": "token=html", "exchange_page": "token=page",
    "exchange_down": "token=down", "refresh_denied": "refresh=denied", "refresh_page": "refresh=page",
    "refresh_html": "refresh=html", "refresh_down": "refresh=down", "issuer_page": "metadata=page",
    "issuer_down": "metadata=down", "bare": "mcp=bare", "static": "mcp=bare", "scope": "mcp=scope", "page": "mcp=page",
    "hung_up": "mcp=down", "moved": "mcp=moved", "machine_denied": "token=denied",
}  # fmt: skip
OUTCOMES = {
    "login": ("ready", "authenticated"), "exchange_denied": ("awaiting_auth", "failed"),
    "exchange_html": ("awaiting_auth", "failed"), "exchange_page": ("awaiting_auth", "failed"),
    "exchange_down": ("awaiting_auth", "failed"), "issuer_page": ("awaiting_auth", "failed"),
    "issuer_down": ("awaiting_auth", "failed"), "bare": ("ready", "authenticated"),
    "static": ("awaiting_auth", "awaiting_browser"), "page": ("cooldown", "not_required"),
    "hung_up": ("cooldown", "not_required"), "moved": ("cooldown", "not_required"),
    "untrusted": ("cooldown", "not_required"), "no_tls": ("cooldown", "not_required"),
    "closed": ("cooldown", "not_required"), "machine": ("ready", "authenticated"),
    "machine_denied": ("awaiting_auth", "failed"),
}  # fmt: skip
"""State and login of each server that needs nothing done to it, once it has come to rest."""


class World:
    """A daemon, the servers that tell everything, the browser, and all that was ever said about them."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.tattler = Program([PYTHON, "-S", "-E", str(SERVERS / "tattler.py")], None, folder / "tattler.jsonl", {})
        self.tattler.start()
        self.browser = Browser(daemon.folder)
        self.spied = daemon.folder / "spied.jsonl"
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.private_key = key.decode()
        self.env: dict[str, str] = {"PRIVATE_KEY": self.private_key}
        self.overrides: dict[str, str] = {}
        self.heard: list[dict[str, Any]] = []

    # -- what is configured

    def entry(self, name: str, origin: str = "", **keys: Any) -> dict[str, Any]:
        """Give the entry of a remote server with a secret in every place that may have one."""
        secret = {place: f"canary-{name}-{place}-{TAIL}" for place in ("userinfo", "query", "fragment", "header")}
        user, query, fragment, header = (quote(s, safe="") for s in secret.values())
        for place in ("PATH", "ARGUMENT", "KEY", "CLIENT"):
            value = f"canary-{name}-env-{place.lower()}-{TAIL}"
            self.env[f"{place}_{name}"] = value if place in ("KEY", "CLIENT") else quote(value, safe="")
        self.overrides[f"KEPT_{name}"] = f"canary-{name}-kept-{TAIL}"
        self.daemon.env[f"ISSUES_{name}"] = f"canary-{name}-environ-{TAIL}"
        scheme, _, host = (origin or self.tattler.url).partition("://")
        headers = {
            "X-Key": f"$KEY_{name}", "X-Literal": secret["header"], "Cookie": f"a=b; sid=canary-{name}-cookie-{TAIL}",
            "X-Kept": f"$KEPT_{name}", "X-Environ": f"${{env:ISSUES_{name}}}", **keys.pop("headers", {}),
        }  # fmt: skip
        path = f"/{name}/$PATH_{name}/mcp?key={query}&p=$ARGUMENT_{name}#{fragment}"
        return remote(f"{scheme}://me:{user}@{host}{path}", headers=headers, **keys)

    def write(self, servers: dict[str, Any]) -> None:
        spy = [PYTHON, "-S", "-E", "-c", SPY, str(self.spied), *self.browser.argv]
        about = {"browser_command": spy, "log_level": "debug", "log_max_bytes": 1 << 15, "log_backups": 100}
        mcp = {"heartbeat_interval_secs": 60.0, "max_restart_attempts": 1, "restart_cooldown_secs": 60.0}
        self.daemon.write(servers, env=self.env, daemon=about, mcp={**mcp, "restart_cooldown_max_secs": 60.0})
        self.daemon.data_dir.mkdir(mode=0o700, exist_ok=True)
        kept = self.daemon.data_dir / "env.toml"
        kept.write_text("".join(f'{name} = "{value}"\n' for name, value in self.overrides.items()))
        kept.chmod(0o600)

    def start(self) -> World:
        self.daemon.start()
        threading.Thread(target=self._listen, args=(self.daemon.connect(120),), daemon=True).start()
        return self

    def _listen(self, connection: Any) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            connection.call("mcp.subscribe", events=["state", "auth", "lists", "servers", "log"])
            while True:
                self.heard.append(json.loads(connection.read_line())["params"])

    def now(self, name: str, mode: str) -> None:
        """Have the server behave differently from now on."""
        with build_opener(ProxyHandler({})).open(Request(f"{self.tattler.url}/test/{name}?{mode}", b""), timeout=10):
            pass

    # -- what is secret

    def opened(self, name: str = "") -> list[str]:
        """Give the URLs of logins that a browser was given."""
        return [url for url in self.browser.opened() if f"/as/{name}" in url]

    def posted(self, name: str, parameter: str) -> list[str]:
        """Give what was sent to an authorization server in the body of a request, by the parameter's name."""
        forms = [parse_qs(row["body"]) for row in self.tattler.events(name=name) if "=" in row["body"]]
        return [form[parameter][0] for form in forms if parameter in form]

    def spilled(self, text: str, name: str = "") -> set[str]:
        """Name the secrets of a server, or of any, that are in a text: raw, encoded, or a good part of one."""
        stem = f"canary-{name}-" if name else "canary-"
        found = set(re.findall(stem + r"[a-z_-]*", text.lower()))
        for offset in range(3):  # base64 at each of the three places in a group, both alphabets (no + or / in it)
            encoded = base64.b64encode(b"\0" * offset + stem.encode()).decode()
            if encoded[(offset * 8 + 5) // 6 : (offset + len(stem)) * 8 // 6] in text:
                found.add("base64")
        asked = [{k: v[0] for k, v in parse_qs(urlsplit(url).query).items()} for url in self.opened(name)]
        found |= {"state" for query in asked if query["state"] in text}
        challenges = {query["code_challenge"] for query in asked}
        for word in set(re.findall(r"(?<![\w-])[\w-]{43}(?![\w-])", text, re.ASCII)):
            digest = base64.urlsafe_b64encode(hashlib.sha256(word.encode()).digest()).decode().rstrip("=")
            found |= {"verifier"} if digest in challenges else set()
        found |= {"assertion" for jwt in self.posted(name, "client_assertion") if jwt.split(".")[2] in text}
        lines = [line for line in self.private_key.splitlines() if not line.startswith("--")]
        forms = [form for line in lines for form in (line, base64.b64encode(line.encode()).decode()[:-4])]
        return found | {"private key" for form in forms if form in text}

    # -- where it could be

    def answers(self, name: str) -> Iterator[tuple[str, str]]:
        """Give what the control methods that show something say now."""
        with self.daemon.connect() as client:
            for method in ("daemon.status", "mcp.list", "mcp.tools", "env.list", "mcp.config.get", "rpc.discover"):
                yield method, client.call_raw(method, {}).decode()
            yield "logs.tail", client.call_raw("logs.tail", {"limit": 10_000}).decode()
            for method in ("mcp.status", "mcp.history", "mcp.tools", "mcp.test", "mcp.resources", "mcp.prompts"):
                yield f"{method} {name}", client.call_raw(method, {"name": name}).decode()
            call = {"server": name, "tool": "echo", "arguments": {}}
            yield f"mcp.call {name}", client.call_raw("mcp.call", call).decode()
            yield f"mcp.read {name}", client.call_raw("mcp.read_resource", {"server": name, "uri": "x:y"}).decode()

    def everything(self, name: str) -> Iterator[tuple[str, str]]:
        """Give every text that anybody may see, with the name of the place."""
        yield from self.answers(name)
        yield from ((f"event {event['type']}", json.dumps(event)) for event in list(self.heard))
        for words in (["status", name], ["why", name]):
            done = self.daemon.cli(*words)
            yield f"moltis {' '.join(words)}", done.stdout + done.stderr
        yield from self.places()

    def places(self) -> Iterator[tuple[str, str]]:
        """Give every file but the stores, what the daemon has printed, and what ps shows of it and all below it."""
        data, stores = self.daemon.data_dir, (self.daemon.data_dir / "oauth", self.daemon.data_dir / "env.toml")
        for path in data.rglob("*"):
            if path.is_file() and not any(path.is_relative_to(store) for store in stores):
                yield str(path.relative_to(data)), path.read_text(errors="replace")
        yield "output", self.daemon.output.read_text(errors="replace")
        for pid in [self.daemon.pid, *descendants(self.daemon.pid)]:
            for what in ("cmdline", "environ"):
                if what == "cmdline" or pid != self.daemon.pid:  # ${env:NAME} is in the daemon's own environment
                    with contextlib.suppress(OSError):
                        text = Path(f"/proc/{pid}/{what}").read_text(errors="replace")
                        if str(self.spied) not in text:  # a browser's has the URL: see what the spy has noted
                            yield f"{what} of {pid}", text

    def leaks(self, name: str) -> dict[str, set[str]]:
        """Give the secrets of a server that are shown, by the place. The URL of a login is left out where it may be."""
        urls = self.opened(name)
        found: dict[str, set[str]] = {}
        for where, text in self.everything(name):
            allowed = where.startswith(WITH_URL) or '"code":-32007' in text
            for url in urls if allowed else ():
                text = text.replace(url, "")
            if spilled := self.spilled(text, name) | {"URL" for url in urls if url in text}:
                found.setdefault(where, set()).update(spilled)
        return found

    def come_to(self, name: str, state: str, auth: str) -> None:
        def there() -> bool:
            status = self.daemon.status(name)
            return (status["state"], status["auth_state"]) == (state, auth)

        wait_until(f"{name} is {state}, {auth}", there, 20, tell=lambda: json.dumps(self.daemon.status(name)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One daemon for all tests; each has a server of its own."""
    folder = tmp_path_factory.mktemp("w")
    daemon = Daemon(folder)
    with place_in(folder) as place:
        made = World(daemon, folder)
        try:
            made.write(all_servers(made, place))
            for name, mode in MODES.items():
                made.now(name, mode)
            yield made.start()
        finally:
            daemon.end_everything()
            made.tattler.kill()


def all_servers(world: World, place: Place) -> dict[str, Any]:
    tls = place.hostile("honest", "--host", "127.0.0.1", "--certificate", str(certificate_for("127.0.0.1", place.folder)))
    machine = {"grant": "client_credentials", "client_id": "m", "private_key": "$PRIVATE_KEY"}
    special: dict[str, dict[str, Any]] = {
        "pasted": {"oauth": {"client_id": "me", "client_secret": "$CLIENT_pasted"}},
        "static": {"headers": {"Authorization": f"Bearer canary-static-authorization-{TAIL}"}},
        "machine": {"oauth": machine},
        "machine_denied": {"oauth": machine},
        "closed": {"origin": f"http://127.0.0.1:{free_port()}"},
        "untrusted": {"origin": tls.said["honest"]["url"].removesuffix("/mcp")},
        "no_tls": {"origin": world.tattler.url.replace("http://", "https://")},
    }
    names = {"removed": 0, **MODES, **OUTCOMES}
    entries = {name: world.entry(name, **special.get(name, {})) for name in names}
    return {**entries, "local": world.daemon.evil()}


# -- after whatever happens


@pytest.mark.parametrize("name", OUTCOMES)
def test_nothing_is_shown_of_a_server_that_comes_to_rest_by_itself(world: World, name: str) -> None:
    world.come_to(name, *OUTCOMES[name])
    assert world.leaks(name) == {}


REFRESHES = ("refresh_denied", "refresh_page", "refresh_html", "refresh_down")


@pytest.mark.parametrize("name", REFRESHES)
def test_nothing_is_shown_of_a_refresh_that_fails(world: World, name: str) -> None:
    world.come_to(name, "ready", "authenticated")
    world.now(name, "forget=1")
    with contextlib.suppress(RpcError):
        world.daemon.call(name, "echo")
    assert world.posted(name, "refresh_token")
    world.come_to(name, "ready", "authenticated")
    assert len(world.opened(name)) == (2 if name == "refresh_denied" else 1)
    assert world.leaks(name) == {}


def test_nothing_is_shown_of_a_step_up(world: World) -> None:
    world.come_to("scope", "ready", "authenticated")
    with pytest.raises(RpcError) as raised:
        world.daemon.call("scope", "echo")
    assert raised.value.code == -32007
    wait_until("it is asked for more", lambda: len(world.posted("scope", "code")) == 2)
    world.come_to("scope", "ready", "authenticated")
    assert world.leaks("scope") == {}
    assert world.daemon.text("scope", "echo") == "done"


@pytest.mark.parametrize("name", ["pasted", "parts"])
def test_nothing_is_shown_of_a_login_that_is_completed_by_hand(world: World, name: str) -> None:
    url = login(world.daemon, name)["auth_url"]
    assert world.spilled(url, name) == {"state"}
    assert world.leaks(name) == {}
    back = answer(world, name, url)
    params = {"callback_url": callback(url, back)} if name == "pasted" else back
    assert world.daemon.rpc("mcp.oauth.complete", **params) == {"ok": True, "name": name}
    world.come_to(name, "ready", "authenticated")
    assert world.posted(name, "code") == [back["code"]]
    assert world.leaks(name) == {}


def answer(world: World, name: str, url: str) -> dict[str, str]:
    """Give what a browser would come back with."""
    state = parse_qs(urlsplit(url).query)["state"][0]
    return {"code": f"canary-{name}-code-{TAIL}", "state": state, "iss": f"{world.tattler.url}/as/{name}"}


def callback(url: str, back: dict[str, str]) -> str:
    return f"{parse_qs(urlsplit(url).query)['redirect_uri'][0]}?{urlencode(back)}"


def test_nothing_is_shown_of_an_answer_to_a_login_that_is_refused(world: World) -> None:
    url = login(world.daemon, "refused")["auth_url"]
    right = answer(world, "refused", url)
    said = {"error_description": f"canary-refused-words-{TAIL}", "error_uri": f"https://x/canary-refused-uri-{TAIL}"}
    for wrong in [
        {"state": f"canary-refused-state-{TAIL}"}, {"state": ""}, {"iss": f"https://x/canary-refused-iss-{TAIL}"},
        {"iss": ""}, {"code": ""}, {"code": f"canary-refused-code-{TAIL}\r\n"}, {"error": right["code"], **said},
    ]:  # fmt: skip
        last = "error" in wrong
        back = callback(url, right | wrong)
        pages = [] if last else [fetched(back), fetched(f"{back}&code=canary-refused-again"), fetched(f"{back}&canary-refused-x&canary-refused-x")]
        with world.daemon.connect() as client:
            told = client.call_raw("mcp.oauth.complete", {"callback_url": back}).decode()
            told += client.call_raw("mcp.oauth.complete", {**right, **wrong, "canary-refused-y": 1}).decode()
        assert world.spilled(told.replace('"canary-refused-y"', ""), "refused") == set(), told
        assert [world.spilled(page, "refused") for page in pages if page] == [set()] * len(pages)
        assert world.leaks("refused") == {}
    assert world.posted("refused", "code") == []


def fetched(url: str) -> str:
    """Give the page at a URL, whatever its status."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10) as page:
            return str(page.read(), "utf-8") + str(page.headers)
    except HTTPError as page:
        with page:
            return str(page.read(), "utf-8") + str(page.headers)


def test_a_browser_is_given_the_url_and_no_other_secret(world: World) -> None:
    for name in ("login", "exchange_denied"):
        world.come_to(name, *OUTCOMES[name])
    rows = [json.loads(line) for line in world.spied.read_bytes().splitlines()]
    assert len(rows) >= 2
    for row in rows:
        assert row["argv"][:-1] == [*world.daemon_browser[:-1], world.daemon_browser[-1]]
