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
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from harness import PYTHON, SERVERS, Daemon, RpcError, wait_until
from patience import PATIENCE
from ports import free_port
from processes import descendants
from remote_harness import Browser, Place, Program, login, place_in, remote
from test_hostile_authorization import certificate_for

SPY = """import json, os, sys
row = {"argv": open("/proc/self/cmdline").read().split(chr(0))[:-1], "environ": dict(os.environ)}
os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), json.dumps(row).encode() + b"\\n")
os.execv(sys.argv[2], sys.argv[2:])"""
"""Notes what a browser command is given, and becomes the browser."""

TAIL = "+/w=9f3Zq"
WITH_URL = ("mcp.status", "mcp.list", "mcp.reauth", "event auth", "event snapshot", "moltis status")
"""Who may show the URL of a login. An error that says that a login is needed may too, as its `data.auth_url`."""

MODES = {
    "authorize=stay": "pasted parts refused", "token=denied": "exchange_denied machine_denied", "token=code": "coded",
    "token=html": "exchange_html", "token=page": "exchange_page", "token=down": "exchange_down",
    "refresh=denied": "refresh_denied", "refresh=html": "refresh_html", "refresh=page": "refresh_page",
    "refresh=down": "refresh_down", "metadata=page": "issuer_page", "metadata=down": "issuer_down", "mcp=page": "page",
    "mcp=down": "hung_up", "mcp=moved": "moved", "mcp=old": "old", "mcp=error": "error", "mcp=cut": "cut",
    "mcp=scope": "scope", "mcp=bare": "bare static",
}  # fmt: skip
"""How the servers behave; the others do nothing wrong."""
DOWN = "page hung_up moved old untrusted no_tls closed host error cut"
FAILED = "exchange_denied exchange_html exchange_page exchange_down coded issuer_page issuer_down machine_denied"
OUTCOMES = {
    **dict.fromkeys(("login", "bare", "machine"), ("ready", "authenticated")),
    **dict.fromkeys(FAILED.split(), ("awaiting_auth", "failed")),
    **dict.fromkeys(DOWN.split(), ("cooldown", "not_required")),
    "static": ("awaiting_auth", "failed"),
    "host": ("backoff", "not_required"),  # no name is resolved where there is no network: it is tried on
}
"""State and login of each server that needs nothing done to it, once it has come to rest."""


@dataclass(frozen=True)
class Known:
    """What is secret: whatever has the stem, some words by what they are, and the verifiers of these challenges."""

    stem: str
    words: dict[str, set[str]]
    challenges: set[str]

    def spilled(self, text: str) -> set[str]:
        """Name the secrets that are in a text: raw, encoded, or a good part of one."""
        found = set(re.findall(self.stem + r"[a-z_-]*", text.lower()))
        for offset in range(3):  # base64 at each of the three places in a group, both alphabets (no + or / in it)
            encoded = base64.b64encode(b"\0" * offset + self.stem.encode()).decode()
            if encoded[(offset * 8 + 5) // 6 : (offset + len(self.stem)) * 8 // 6] in text:
                found.add("base64")
        for word in set(re.findall(r"(?<![\w-])[\w-]{43}(?![\w-])", text, re.ASCII)) if self.challenges else ():
            digest = base64.urlsafe_b64encode(hashlib.sha256(word.encode()).digest()).decode().rstrip("=")
            found |= {"verifier"} if digest in self.challenges else set()
        return found | {what for what, words in self.words.items() if any(word in text for word in words)}


class World:
    """A daemon, the servers that tell everything, the browser, and all that was ever said about them."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.tattler = Program([PYTHON, "-S", "-E", str(SERVERS / "tattler.py")], None, folder / "tattler.jsonl", {})
        self.tattler.start()
        self.browser = Browser(daemon.folder)
        self.spied = daemon.folder / "spied.jsonl"
        self.browser_command = [PYTHON, "-S", "-E", "-c", SPY, str(self.spied), *self.browser.argv]
        self.certificate = certificate_for("127.0.0.1", folder)
        self.private_key = self.certificate.read_text().partition("-----BEGIN CERT")[0]
        self.env: dict[str, str] = {"PRIVATE_KEY": self.private_key, "HOST": "Canary-host-env-host-9f3Zq"}
        self.overrides: dict[str, str] = {}
        self.heard: list[dict[str, Any]] = []

    # -- what is configured

    def entry(self, name: str, origin: str = "", **keys: Any) -> dict[str, Any]:
        """Give the entry of a remote server with a secret in every place that may have one."""
        secret = {place: f"canary-{name}-{place}-{TAIL}" for place in ("userinfo", "query", "fragment", "header")}
        user, query, fragment, _ = (quote(s, safe="") for s in secret.values())
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
        return {**remote(f"{scheme}://me:{user}@{host}{path}"), "headers": headers, **keys}

    def write(self, servers: dict[str, Any]) -> None:
        about = {"log_level": "debug", "log_max_bytes": 1 << 15, "log_backups": 100}
        mcp = {"heartbeat_interval_secs": 60.0, "max_restart_attempts": 1}
        mcp |= {"restart_cooldown_secs": 60.0, "restart_cooldown_max_secs": 60.0}
        self.daemon.write(servers, env=self.env, mcp=mcp, daemon={**about, "browser_command": self.browser_command})
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

    def now(self, names: str, mode: str) -> None:
        """Have servers behave differently from now on."""
        for name in names.split():
            request = Request(f"{self.tattler.url}/test/{name}?{mode}", b"")
            with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE):
                pass

    # -- what is secret

    def opened(self, name: str = "") -> list[str]:
        """Give the URLs of logins that a browser was given."""
        return [url for url in self.browser.opened() if f"/as/{name}{name and '/'}" in url]

    def posted(self, name: str, parameter: str) -> list[str]:
        """Give what was sent to an authorization server in the body of a request, by the parameter's name."""
        forms = [parse_qs(row["body"]) for row in self.tattler.events(name=name) if "=" in row["body"]]
        return [form[parameter][0] for form in forms if parameter in form]

    def known(self, name: str = "") -> Known:
        """Give what is secret by now of a server, or of all."""
        asked = [{k: v[0] for k, v in parse_qs(urlsplit(url).query).items()} for url in self.opened(name)]
        challenges = {query["code_challenge"] for query in asked}
        lines = [line for line in self.private_key.splitlines() if not line.startswith("--")]
        return Known(
            f"canary-{name}-" if name else "canary-",
            {
                "state": {query["state"] for query in asked},
                "challenge": challenges,
                "assertion": {jwt.rpartition(".")[2] for jwt in self.posted(name, "client_assertion")},
                "private key": {*lines, *(base64.b64encode(line.encode()).decode()[:-4] for line in lines)},
            },
            challenges,
        )

    def spilled(self, text: str, name: str = "") -> set[str]:
        """Name the secrets of a server, or of any, that are in a text."""
        return self.known(name).spilled(text)

    # -- where it could be

    def answers(self, name: str) -> Iterator[tuple[str, str]]:
        """Give what the control methods that show something say now."""
        with self.daemon.connect() as subscriber:
            subscriber.call("mcp.subscribe")
            yield "event snapshot", subscriber.read_line().decode()
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
        heard = defaultdict(list)
        for event in list(self.heard):
            heard[f"event {event['type']}"].append(event)
        yield from ((kind, json.dumps(events)) for kind, events in heard.items())
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
        urls, known = self.opened(name), self.known(name)
        found: dict[str, set[str]] = {}
        for where, text in self.everything(name):
            allowed = where.startswith(WITH_URL) or (where.startswith("mcp.") and '"code":-32007' in text)
            for url in urls if allowed else ():
                text = text.replace(url, "")
            if spilled := known.spilled(text):
                found.setdefault(where, set()).update(spilled)
        return found

    def come_to(self, name: str, state: str, auth: str) -> None:
        def there() -> bool:
            status = self.daemon.status(name)
            return (status["state"], status["auth_state"]) == (state, auth)

        wait_until(f"{name} is {state}, {auth}", there, tell=lambda: json.dumps(self.daemon.status(name)))

    def come_to_rest(self) -> None:
        moving = {"starting", "initializing", "stopping", "backoff"}

        def at_rest() -> bool:
            return not any(state in moving for name, state in self.daemon.states().items() if name != "host")

        wait_until("all are at rest", at_rest, tell=self.daemon.states)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One daemon for all tests; each has a server of its own."""
    with tempfile.TemporaryDirectory(prefix="moltis-") as name, place_in(Path(name)) as place:
        daemon = Daemon(Path(name))
        made = World(daemon, place.folder)
        try:
            made.write(all_servers(made, place))
            for mode, names in MODES.items():
                made.now(names, mode)
            yield made.start()
        finally:
            daemon.end_everything()
            made.tattler.kill()


def all_servers(world: World, place: Place) -> dict[str, Any]:
    tls = place.hostile("honest", "--host", "127.0.0.1", "--certificate", str(world.certificate))
    machine = {"grant": "client_credentials", "client_id": "m", "private_key": "$PRIVATE_KEY"}
    issuer = f"{world.tattler.url}/as/busy"
    special: dict[str, dict[str, Any]] = {
        "pasted": {"oauth": {"client_id": "me", "client_secret": "$CLIENT_pasted"}},
        "static": {"headers": {"Authorization": f"Bearer canary-static-authorization-{TAIL}"}},
        "machine": {"oauth": machine},
        "machine_denied": {"oauth": machine},
        "busy": {"oauth": {**machine, "auth_url": issuer, "token_url": f"{issuer}/token"}},
        "old": {"transport": "sse"},
        "host": {"origin": f"http://$HOST.localhost:{free_port()}"},
        "closed": {"origin": f"http://127.0.0.1:{free_port()}"},
        "untrusted": {"origin": tls.said["honest"]["url"].removesuffix("/mcp")},
        "no_tls": {"origin": world.tattler.url.replace("http://", "https://")},
    }
    names = " ".join(("removed held busy", *MODES.values(), *OUTCOMES)).split()
    entries = {name: world.entry(name, **special.get(name, {})) for name in names}
    return {**entries, "local": world.daemon.evil()}  # whose environment can be looked at


# -- after whatever happens


@pytest.mark.parametrize("name", OUTCOMES)
def test_nothing_is_shown_of_a_server_that_comes_to_rest_by_itself(world: World, name: str) -> None:
    world.come_to(name, *OUTCOMES[name])
    assert world.leaks(name) == {}


@pytest.mark.parametrize("name", ["refresh_denied", "refresh_page", "refresh_html", "refresh_down"])
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
    url = asked(world, name)
    assert world.spilled(url, name) == {"state", "challenge"}
    assert world.leaks(name) == {}
    back = answer(world, name, url)
    params = {"callback_url": callback(url, back)} if name == "pasted" else back
    assert world.daemon.rpc("mcp.oauth.complete", **params) == {"ok": True, "name": name}
    world.come_to(name, "ready", "authenticated")
    assert world.posted(name, "code") == [back["code"]]
    assert world.leaks(name) == {}


def asked(world: World, name: str) -> str:
    """Give the URL at which a person is to log in, once a browser was opened too."""
    url: str = login(world.daemon, name)["auth_url"]
    wait_until("a browser is opened", lambda: world.opened(name) == [url])
    return url


def answer(world: World, name: str, url: str) -> dict[str, str]:
    """Give what a browser would come back with."""
    state = parse_qs(urlsplit(url).query)["state"][0]
    return {"code": f"canary-{name}-code-{TAIL}", "state": state, "iss": f"{world.tattler.url}/as/{name}"}


def callback(url: str, back: dict[str, str]) -> str:
    return f"{parse_qs(urlsplit(url).query)['redirect_uri'][0]}?{urlencode(back)}"


def test_nothing_is_shown_of_an_answer_to_a_login_that_is_refused(world: World) -> None:
    url = asked(world, "refused")
    right = answer(world, "refused", url)
    said = {"error_description": f"canary-refused-words-{TAIL}", "error_uri": f"https://x/canary-refused-uri-{TAIL}"}
    for wrong in [
        {"state": f"canary-refused-state-{TAIL}"}, {"state": ""}, {"iss": f"https://x/canary-refused-iss-{TAIL}"},
        {"iss": ""}, {"code": ""}, {"code": f"canary-refused-code-{TAIL}\r\n"}, {"error": right["code"], **said},
    ]:  # fmt: skip
        back = callback(url, right | wrong)
        if "error" not in wrong:  # that is an answer, and the login is over with it
            pages = [fetched(back + more) for more in ("", "&code=canary-refused-again", "&canary-refused-x=")]
            assert [world.spilled(page, "refused") for page in pages] == [set()] * len(pages)
        with world.daemon.connect() as client:
            told = client.call_raw("mcp.oauth.complete", {"callback_url": back}).decode()
            told += client.call_raw("mcp.oauth.complete", right | wrong).decode()
            told += client.call_raw("mcp.status", {"name": "refused"}).decode().replace(url, "")
        assert world.spilled(told, "refused") == set()
    assert world.leaks("refused") == {}
    assert world.posted("refused", "code") == []


def fetched(url: str) -> str:
    """Give the page that a URL is refused with."""
    with pytest.raises(HTTPError) as refused, build_opener(ProxyHandler({})).open(url, timeout=PATIENCE):
        pass
    with refused.value as page:
        return str(page.read(), "utf-8") + str(page.headers)


def test_what_is_looked_for_was_there_and_is_found_in_any_form(world: World) -> None:
    for name in ("login", "machine"):
        world.come_to(name, *OUTCOMES[name])
    heard = json.dumps(world.tattler.events(name="login"))
    for place in ("env-path", "env-argument", "env-key", "query", "header", "kept", "environ", "cookie"):
        assert f"canary-login-{place}-" in world.spilled(heard, "login"), place
    assert world.spilled(heard, "login") >= {"canary-login-code-", "canary-login-access-token-", "base64", "verifier"}
    assert "state" in world.spilled(world.opened("login")[0], "login")
    assert "assertion" in world.spilled(json.dumps(world.tattler.events(name="machine")), "machine")
    assert "private key" in world.spilled(world.daemon.config.read_text())
    for n in range(3):
        assert world.spilled(base64.b64encode(b"x" * n + b"canary-login-x").decode(), "login") == {"base64"}


def test_a_browser_is_given_the_url_and_no_other_secret(world: World) -> None:
    for name in ("login", "exchange_denied"):
        world.come_to(name, *OUTCOMES[name])
    rows = [json.loads(line) for line in world.spied.read_bytes().split(b"\n")[:-1]]
    assert len(rows) >= 2
    for row in rows:
        name = re.findall("/as/([a-z_]+)/", row["argv"][-1])[0]
        assert row["argv"][:-1] == world.browser_command
        assert world.spilled(" ".join(row["argv"]), name) == {"state", "challenge"}
        assert world.spilled(json.dumps(row["environ"])) == set()
        assert row["environ"]["HOME"] == str(world.daemon.folder)


def test_what_is_kept_is_the_owners_alone(world: World) -> None:
    world.come_to("login", *OUTCOMES["login"])
    kept = world.daemon.data_dir / "oauth"
    files = [path for path in kept.rglob("*") if path.is_file()]
    found = {word for path in files for word in world.spilled(path.read_text(), "login")}
    assert {"canary-login-access-token-", "canary-login-refresh-token-", "canary-login-registered-secret-"} <= found
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [kept, *(path for path in kept.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


COMMANDS = (
    "status", "status --json", "mcp list", "mcp list --json", "mcp get login --json", "mcp get issuer_page",
    "config show", "config check", "doctor", "env list", "mcp tools", "mcp test page", "mcp test machine_denied",
    "mcp call page.echo", "mcp reauth page --no-wait", "mcp reauth bare --no-wait", "mcp reauth issuer_page --no-wait",
    "mcp reauth machine_denied --no-wait", "mcp reauth exchange_denied", "logs -n 9999",
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_no_command_prints_a_secret(world: World, words: str) -> None:
    world.come_to_rest()
    done = world.daemon.cli(*words.split())
    said = done.stdout + done.stderr
    for url in world.opened() if "logs" not in words else ():
        said = said.replace(url, "")
    assert world.spilled(said) == set()
    assert said or "reauth" in words
    assert "Traceback" not in said


def test_nothing_is_shown_of_a_server_that_is_only_tried(world: World) -> None:
    word = f"canary-trial-{{}}-{TAIL}"
    url = f"{world.tattler.url}/trial/mcp?key={quote(word.format('query'))}"
    world.now("trial", "mcp=error")
    headers = {"X-Key": word.format("key"), "Authorization": f"Bearer {word.format('token')}"}
    far = world.daemon.rpc("mcp.test", url=url, transport="streamable-http", headers=headers)
    near = world.daemon.rpc("mcp.test", **world.daemon.evil("secret-leaker", env={"A": word.format("env")}))
    assert (far["ok"], near["ok"]) == (False, True)
    assert world.spilled(json.dumps([far, near]), "trial") == set()
    assert {where: found for where, text in world.places() if (found := world.spilled(text, "trial"))} == {}


def test_a_token_in_use_stays_hidden_after_hundreds_of_others(world: World) -> None:
    world.come_to("held", "ready", "authenticated")
    world.come_to("busy", "ready", "authenticated")
    with world.daemon.connect() as client:
        for _ in range(130):  # two tokens each
            client.call("mcp.reauth", name="busy")
    world.now("held", "mcp=error")
    world.daemon.rpc("mcp.restart", name="held")
    world.come_to("held", "cooldown", "authenticated")
    assert world.leaks("held") == {}


def test_nothing_is_shown_of_a_server_that_is_removed(world: World) -> None:
    world.come_to("removed", "ready", "authenticated")
    world.daemon.rpc("mcp.remove", name="removed")
    assert [re.sub(r"-\d+\+.*", "", t) for t in world.posted("removed", "token")] == [
        "canary-removed-refresh-token", "canary-removed-access-token",
    ]  # fmt: skip
    kept = [path.read_text() for path in (world.daemon.data_dir / "oauth").rglob("*") if path.is_file()]
    assert world.spilled("".join(kept), "removed") == set()
    assert world.leaks("removed") == {}


def test_nothing_is_shown_of_what_is_found_again_after_a_restart(world: World) -> None:
    world.come_to("login", "ready", "authenticated")
    before = len(world.opened("login"))
    assert world.daemon.stop() == 0
    world.start().come_to("login", "ready", "authenticated")
    assert len(world.opened("login")) == before
    assert world.leaks("login") == {}
    world.now("login", "forget=1&refresh=denied")
    with pytest.raises(RpcError):
        world.daemon.call("login", "echo")
    world.come_to("login", "ready", "authenticated")
    assert world.leaks("login") == {}


def test_nothing_was_ever_written_of_any_of_them(world: World) -> None:
    world.come_to("login", "ready", "authenticated")
    assert world.daemon.stop() == 0
    written = list(world.places())
    assert {where: found for where, text in written if (found := world.spilled(text))} == {}
    assert {"logs.jsonl", "logs.jsonl.1", "output"} <= {where for where, _ in written}
