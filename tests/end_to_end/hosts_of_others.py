"""Agent hosts that people install from npm and PyPI, each against a daemon of its own, set up as docs/hosts.md says.

    python tests/end_to_end/hosts_of_others.py [NAME ...]       prints the table as Markdown

A host is pointed at a stand-in for its model, on this machine, which calls a tool of moltis, has the daemon restarted
while the host waits for it, and calls once more; then a server is added, and the host sees its tools, or it has read
the list for good. It is tried over `moltis connect` and over HTTP with an access token. Reaches npm and PyPI to
install; when the hosts run, the network is cut off where this user may do that.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import tomli_w
from documented_hosts import ENDPOINT, by_command, by_http
from gateway_harness import gateway_url, new_token, start
from harness import PYTHON, SERVERS, Daemon, wait_until
from installing import CannotInstall, node_program, npm_folder, npm_program, uv_environment
from processes import descendants, marked, signal_pid
from stand_in_models import MODEL, Asked, StandInModel, Tool, is_called

from moltis.httpd.events import RETRY_SECS

WAYS = ("connect", "http")
HOSTS_FOLDER = SERVERS / "hosts"
RUN_WITHIN = 180.0
GONE_WITHIN = 5.0
TOLD_WITHIN = RETRY_SECS + 1.5
"""How long a model waits with its answer after a server was added: hosts ask for the list anew when they are told, and
over HTTP they have first to listen again after the restart."""
SERVER, TOOL, ADDED = "probe", "probe__echo", "added__echo"
PROMPT = "Call the tool echo of probe twice, then say that you are done."


@dataclass
class Use:
    """A host, on one way to a daemon of its own. `home`: its home folder, in which the daemon has its places too."""

    way: str
    daemon: Daemon
    programs: Path
    model: StandInModel
    token: str
    more: dict[str, str] = field(default_factory=dict)
    said: str = ""

    @property
    def home(self) -> Path:
        return self.daemon.folder

    @property
    def env(self) -> dict[str, str]:
        """The environment of a person's shell, and nothing of this process's own."""
        moltis, node = Path(PYTHON).parent, Path(node_program()).parent
        path = [str(self.home / "bin"), str(self.programs), str(node), os.environ["PATH"]]
        (self.home / "bin").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.home / "bin" / "moltis").symlink_to(moltis / "moltis")
        found = {"HOME": str(self.home), "PATH": os.pathsep.join(path), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**found, "NO_COLOR": "1", "CI": "1", "MOLTIS_TOKEN": self.token, **self.more}

    def run(self, *words: str, within: float = RUN_WITHIN) -> str:
        """Run a program in an empty folder, and return what it said on stdout.

        Raises:
            Failed: it exits with another code than 0, or not at all.
        """
        work = self.home / "work"
        work.mkdir(exist_ok=True)
        with subprocess.Popen(
            words, cwd=work, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, complaints = process.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                self.end()
                said, complaints = process.communicate()
                raise Failed(f"{words[0]} does not end within {within:.0f} s", said, complaints) from None
        self.said += said
        if process.returncode:
            raise Failed(f"{words[0]} ends with {process.returncode}", said, complaints)
        return said

    def left(self) -> dict[int, str]:
        """Return what still runs in this home but the daemon and its servers."""
        others = {self.daemon.pid, *descendants(self.daemon.pid)}
        return {pid: arguments for pid, arguments in marked(str(self.home)).items() if pid not in others}

    def end(self) -> None:
        for pid in self.left():
            signal_pid(pid, signal.SIGKILL)

    def write(self, file: str, settings: Mapping[str, Any]) -> None:
        """Put settings into a file of the home folder, beside what is there."""
        path = Path(file.replace("~", str(self.home), 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        toml = path.suffix == ".toml"
        before: dict[str, Any] = {}
        if path.exists():
            before = tomllib.loads(path.read_text()) if toml else json.loads(path.read_text())
        after = {**before, **settings}
        path.write_text(tomli_w.dumps(after) if toml else json.dumps(after, indent=2))

    def follow_readme(self, host: str) -> None:
        """Do what docs/hosts.md says for this host and way."""
        entry = (by_command() if self.way == "connect" else by_http())[host]
        here = gateway_url(self.daemon)
        if entry.command:
            self.run("bash", "-c", entry.command.replace(ENDPOINT, here), within=60.0)
        else:
            self.write(entry.file, json.loads(json.dumps(entry.settings).replace(ENDPOINT, here)))


class Failed(Exception):
    """A host did not do what it was asked for. The message is what it did, and the last that it said."""

    def __init__(self, what: str, said: str, complaints: str) -> None:
        super().__init__(f"{what}: {' '.join(f'{said} {complaints}'.split())[-400:]}")


@dataclass(frozen=True)
class Host:
    """One host.

    package: as npm or uv install it, with its version. use: has it do all that there is to do.
    cannot: why it cannot be run here.
    """

    name: str
    package: str = ""
    use: Callable[[Use], None] = lambda use: None
    ways: tuple[str, ...] = WAYS
    remark: str = ""
    cannot: str = ""

    def install(self) -> Path:
        """Return the folder of its programs. Raise CannotInstall."""
        if self.package.startswith("npm:"):
            return npm_program(HOSTS_FOLDER / self.name, self.package.removeprefix("npm:"))
        if self.package.startswith("pypi:"):
            return uv_environment(HOSTS_FOLDER / self.name, self.package.removeprefix("pypi:").split())
        return (
            npm_folder(SERVERS / "node", ["@modelcontextprotocol/inspector"], "MOLTIS_TEST_NODE") / "node_modules/.bin"
        )

    @property
    def version(self) -> str:
        if not self.package:
            named = json.loads((SERVERS / "node" / "package.json").read_bytes())
            return str(named["dependencies"]["@modelcontextprotocol/inspector"])
        return self.package.partition(" ")[0].rpartition("@")[2].rpartition("==")[2]


# -- the hosts


def claude(use: Use) -> None:
    use.more = {
        "ANTHROPIC_BASE_URL": use.model.origin, "ANTHROPIC_API_KEY": "none", "ANTHROPIC_MODEL": "claude-sonnet-4-5",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1", "ENABLE_TOOL_SEARCH": "false",
    }  # fmt: skip
    use.follow_readme("Claude Code")
    use.run("claude", "-p", PROMPT, "--allowedTools", "mcp__moltis")


def codex(use: Use) -> None:
    provider = {"name": MODEL, "base_url": f"{use.model.origin}/v1", "wire_api": "responses", "env_key": "MODEL_KEY"}
    use.more = {"MODEL_KEY": "none"}
    mine = {"model": MODEL, "model_provider": MODEL, "check_for_update_on_startup": False}
    mine |= {"analytics": {"enabled": False}, "model_providers": {MODEL: provider}}
    use.write("~/.codex/config.toml", mine)
    use.follow_readme("Codex")
    use.run("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", PROMPT)


def gemini(use: Use) -> None:
    use.more = {
        "GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": use.model.origin, "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }  # fmt: skip
    mine: dict[str, Any] = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "telemetry": {"enabled": False}}
    mine |= {"privacy": {"usageStatisticsEnabled": False}}
    mine |= {"general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False}}
    use.write("~/.gemini/settings.json", mine)
    use.follow_readme("Gemini CLI")
    use.run("gemini", "-m", "gemini-2.5-flash", "--approval-mode", "yolo", "-p", PROMPT)


def qwen(use: Use) -> None:
    use.more = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{use.model.origin}/v1", "OPENAI_MODEL": MODEL}
    mine: dict[str, Any] = {"security": {"auth": {"selectedType": "openai"}}, "telemetry": {"enabled": False}}
    mine |= {"privacy": {"usageStatisticsEnabled": False}, "general": {"enableAutoUpdate": False}}
    mine |= {"tools": {"toolSearch": {"enabled": False}}}  # else tools are offered by name only, to be searched for
    use.write("~/.qwen/settings.json", mine)
    use.follow_readme("Qwen Code")
    use.run("qwen", "--auth-type", "openai", "--approval-mode", "yolo", "-p", PROMPT)


def opencode_like(program: str, host: str, file: str) -> Callable[[Use], None]:
    def drive(use: Use) -> None:
        quiet = ("AUTOUPDATE", "MODELS_FETCH", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "SHARE")
        use.more = {f"{prefix}_DISABLE_{what}": "1" for prefix in ("OPENCODE", "KILO") for what in quiet}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": MODEL, "models": {MODEL: {"name": MODEL}}}
        provider["options"] = {"baseURL": f"{use.model.origin}/v1", "apiKey": "none"}
        use.write(
            file, {"provider": {MODEL: provider}, "autoupdate": False, "share": "disabled", "permission": "allow"}
        )
        use.follow_readme(host)
        use.run(program, "run", "-m", f"{MODEL}/{MODEL}", PROMPT)

    return drive


def copilot(use: Use) -> None:
    use.more = {
        "COPILOT_PROVIDER_BASE_URL": f"{use.model.origin}/v1", "COPILOT_PROVIDER_API_KEY": "none",
        "COPILOT_MODEL": MODEL, "COPILOT_OFFLINE": "true", "COPILOT_AUTO_UPDATE": "false",
    }  # fmt: skip
    use.follow_readme("Copilot CLI")
    use.run("copilot", "--allow-all-tools", "-p", PROMPT)


def continue_cn(use: Use) -> None:
    use.more = {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "1"}
    model = {"name": MODEL, "provider": "openai", "model": MODEL, "apiBase": f"{use.model.origin}/v1", "apiKey": "none"}
    model |= {"roles": ["chat"], "capabilities": ["tool_use"]}
    use.write("~/.continue/config.yaml", {"name": "mine", "version": "0.0.1", "schema": "v1", "models": [model]})
    use.follow_readme("Continue")
    use.run("cn", "--config", str(use.home / ".continue" / "config.yaml"), "--auto", "-p", PROMPT)


def vibe(use: Use) -> None:
    provider = {
        "name": MODEL,
        "api_base": f"{use.model.origin}/v1",
        "api_key_env_var": "MODEL_KEY",
        "api_style": "openai",
    }
    use.more = {"MODEL_KEY": "none"}
    mine: dict[str, Any] = {"active_model": MODEL, "enable_telemetry": False, "enable_update_checks": False}
    mine |= {"providers": [provider | {"backend": "generic"}]}
    mine |= {"models": [{"name": MODEL, "provider": MODEL, "alias": MODEL}]}
    use.write("~/.vibe/config.toml", mine)
    use.follow_readme("Mistral Vibe")
    use.run("vibe", "--trust", "--agent", "auto-approve", "-p", PROMPT)


def inspector(use: Use) -> None:
    target = ["-e", f"HOME={use.home}", "--", "moltis", "connect"]
    if use.way == "http":
        bearer = f"authorization: Bearer {use.token}"
        target = ["--transport", "http", "--server-url", gateway_url(use.daemon), "--header", bearer]
    options = ["--cli", "--format", "json", "--quiet", "--method"]

    def ask(*words: str) -> Any:
        return json.loads(use.run("mcp-inspector", *options, *words, *target))["result"]

    answers: list[str] = []
    for number, (tool, arguments) in enumerate(use.model.calls):
        use.model.before(number)
        listed = tuple(Tool(each["name"]) for each in ask("tools/list")["tools"])
        ((name, value),) = arguments.items()
        answers.append(json.dumps(ask("tools/call", "--tool-name", tool, "--tool-arg", f"{name}={value}")))
        use.model.note(Asked(listed, tuple(answers)))
    use.said = use.model.done


def library(name: str) -> Callable[[Use], None]:
    def drive(use: Use) -> None:
        use.more = {"OPENAI_BASE_URL": f"{use.model.origin}/v1", "OPENAI_API_KEY": "none"}
        use.more |= {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false"}
        if use.way == "http":
            use.more |= {"MCP_URL": gateway_url(use.daemon), "MCP_TOKEN": use.token}
        use.run(str(use.programs / "python"), str(SERVERS / "library_hosts.py"), name, PROMPT)

    return drive


HOSTS = (
    Host("inspector", "", inspector, remark="a process per request"),
    Host("claude-code", "npm:@anthropic-ai/claude-code@2.1.332", claude),
    Host("codex", "npm:@openai/codex@0.171.0", codex),
    Host("gemini-cli", "npm:@google/gemini-cli@0.61.0", gemini),
    Host("copilot", "npm:@github/copilot@1.0.102", copilot),
    Host(
        "opencode", "npm:opencode-ai@1.18.33", opencode_like("opencode", "opencode", "~/.config/opencode/opencode.json")
    ),
    Host("kilo", "npm:@kilocode/cli@7.7.7", opencode_like("kilo", "Kilo Code", "~/.config/kilo/kilo.json")),
    Host("qwen-code", "npm:@qwen-code/qwen-code@0.24.4", qwen),
    Host("continue", "npm:@continuedev/cli@1.5.47", continue_cn),
    Host("vibe", "pypi:mistral-vibe==3.0.2", vibe),
    Host("openai-agents", "pypi:openai-agents==0.24.0", library("openai-agents")),
    Host("pydantic-ai", "pypi:pydantic-ai-slim[mcp,openai]==2.68.0", library("pydantic-ai")),
    Host("langchain", "pypi:langchain-mcp-adapters==0.3.2 langchain langchain-openai", library("langchain")),
    Host("amp", cannot="every command but `mcp add` and `mcp list` wants a login"),
    Host("crush", cannot="its npm package downloads the program from GitHub when it is installed"),
    Host("goose", cannot="neither npm nor PyPI has it"),
    Host("claude-desktop, cursor, zed, vs-code", cannot="desktop programs, which neither npm nor PyPI has"),
)


# -- what is seen of one


@dataclass
class Row:
    """What was seen of a host on one way. `cannot`: why it does not run here."""

    host: Host
    way: str
    cannot: str = ""
    client: str = ""
    listed: int = 0
    tools: int = 0
    calls: list[bool] = field(default_factory=list)
    secs: float | None = None
    faults: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        calls = ["ok" if ok else "lost" for ok in self.calls[:2]] + ["—"] * (2 - len(self.calls))
        calls.append("—" if len(self.calls) < 3 else "seen" if len(self.calls) > 3 else "not seen")
        listed = f"{self.listed} of {self.tools}" if self.tools else "—"
        secs = "—" if self.secs is None else f"{self.secs:.1f}"
        seen = "; ".join(self.faults) or self.cannot or self.host.remark
        version = "—" if self.cannot else self.host.version
        return [self.host.name, version, self.way, self.client or "—", listed, *calls, secs, seen.replace("|", "\\|")]


HEAD = ["host", "version", "over", "says it is", "tools", "call", "after a restart", "added server", "s", ""]


def table(rows: Iterable[Row]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def look_at(host: Host, way: str, daemon: Daemon, programs: Path) -> Row:
    """Have a host go through it all. The daemon runs when this returns, and is for the caller to end."""
    row = Row(host, way)
    daemon.at_home()
    words = [uuid.uuid4().hex for _ in range(4)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"  # the same one after the restart

    def before(number: int) -> None:
        if number == 1:
            assert daemon.stop() == 0
            daemon.start()
            gateway_url(daemon)
        elif number == 2:
            daemon.rpc("mcp.add", name="added", **daemon.evil())
            daemon.wait_for("added", "ready")
            time.sleep(TOLD_WITHIN)

    start(daemon, {SERVER: daemon.evil(events="probe.events")}, {"listen": listen, "require_token": True})
    daemon.wait_for(SERVER, "ready")
    calls = [(ADDED if number == 3 else TOOL, {"message": word}) for number, word in enumerate(words)]
    model = StandInModel(calls, before, f"done-{uuid.uuid4().hex}")
    with model:
        use = Use(way, daemon, programs, model, new_token(daemon, "host"))
        began = time.monotonic()
        try:
            host.use(use)
            row.secs = time.monotonic() - began
            if model.done not in use.said:
                row.faults.append("did not say what the model said at last")
            wait_until("the host's connect has ended", lambda: not _connects(use), GONE_WITHIN, tell=use.left)
        except (Failed, AssertionError) as fault:
            row.faults.append(" ".join(str(fault).split())[:500])
        finally:
            use.end()
    callers = [record["fields"]["host"] for record in daemon.records("moltis.mcp.call")]
    row.client = ", ".join(sorted({f"{seen['name']} {seen['version']} ({seen['era']})" for seen in callers if seen}))
    row.tools = len(daemon.rpc("mcp.tools", name=SERVER))
    names = [f"{SERVER}__{tool['name']}" for tool in daemon.rpc("mcp.tools", name=SERVER)]
    row.listed = sum(any(is_called(tool.name, name) for tool in model.offered) for name in names)
    row.calls = [word in result for word, result in zip(words, model.results, strict=False)]
    carried = [event[2] for event in daemon.events("probe.events") if event[2][0] == "call"]
    if len(carried) != (answered := sum(row.calls[:3])):
        row.faults.append(f"{answered} calls have an answer, {len(carried)} were carried out")
    if model.strangers:
        row.faults.append(f"wants of its model: {', '.join(sorted(set(model.strangers)))}")
    if not all(row.calls) or len(row.calls) < 3:
        row.faults.append(f"the tool's answers: {' / '.join(result[:200] for result in model.results)}")
    return row


def _connects(use: Use) -> bool:
    return any("moltis connect" in arguments for arguments in use.left().values())


def cut_off() -> bool:
    """Leave this process and what it starts nothing of the network but the loopback. False if that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):  # CLONE_NEWNET
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS
    return True


def installed(hosts: Sequence[Host], told: Callable[[Row], None]) -> dict[str, Path]:
    """Return the folders of programs, by host. Of one that cannot be installed, a row tells why."""
    found = {}
    for host in hosts:
        try:
            found[host.name] = host.install()
        except CannotInstall as fault:
            told(Row(host, "—", f"cannot be installed: …{' '.join(str(fault).split())[-300:]}"))
    return found


def run(host: Host, way: str, programs: Path) -> Row:
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as folder:
        daemon = Daemon(Path(folder))
        try:
            return look_at(host, way, daemon, programs)
        except Exception as fault:
            return Row(host, way, faults=[" ".join(str(fault).split())[:300]])
        finally:
            daemon.end_everything()


def main() -> int:
    options = argparse.ArgumentParser(description="Run hosts of others against moltis, and print what was seen.")
    options.add_argument("names", nargs="*", metavar="NAME")
    chosen = [host for host in HOSTS if not (names := options.parse_args().names) or host.name in names]
    rows: list[Row] = []

    def told(row: Row) -> None:
        rows.append(row)
        print("|", " | ".join(row.cells()), "|", file=sys.stderr, flush=True)

    found = installed([host for host in chosen if not host.cannot], told)
    node_program()
    cut = cut_off()
    for host in chosen:
        if host.cannot:
            told(Row(host, "—", host.cannot))
        for way in host.ways if host.name in found else ():
            told(run(host, way, found[host.name]))
    print(table(rows))
    wrong, absent = sum(bool(row.faults) for row in rows), sum(bool(row.cannot) for row in rows)
    print(f"\n{len(rows) - wrong - absent} rows as they should be, {wrong} otherwise, {absent} hosts do not run here.")
    print(f"The network was {'' if cut else 'not '}cut off.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
