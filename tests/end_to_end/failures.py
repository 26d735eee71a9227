"""Failures that people meet, each with a program that fails so until it is mended, and what `moltis why` says of it.

    python tests/end_to_end/failures.py [WORD ...]

prints the table, of those in whose names a word is: what failed, what `why` says first, and what came of following that
to the letter. Each program is a shell script in a folder of its own that plays npx, uvx, docker, Node, Python or a
server, and becomes a good server as soon as what is wrong is mended. `follow` reads an advice as a person would: a
command is run, a line of moltis.toml is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import EVIL, PYTHON, Daemon, wait_until

from moltis.config.surroundings import withheld

FAILED = ("backoff", "cooldown", "invalid")

REPLY = '{"jsonrpc":"2.0","id":1,"result":{}}'


@dataclass(frozen=True)
class Failure:
    """One way to fail.

    program: the name of what `command` starts. script: what it does; `serve` is the good server.
    first: what stands in the first line of "What to do".
    then: what a person does after looking where the advice points, as a command in the server's folder; empty where
        following the advice is enough.
    by: in a few words, who or what mends it, where following the advice cannot: no line of moltis.toml, no command.
    tools: programs beside it, by name.
    kept, written: values of placeholders, by `moltis env set` and in [env].
    """

    name: str
    program: str
    script: str
    first: str
    args: tuple[str, ...] = ()
    then: str = ""
    by: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    value: str = "right"


def npm(*lines: str, code: int = 1) -> str:
    return "".join(f"echo {shlex.quote('npm error ' + line)} >&2; " for line in lines) + f"exit {code}"


def says(text: str, code: int = 1) -> str:
    """Say it on stderr and exit."""
    return f"printf '%s\\n' {shlex.quote(text)} >&2; exit {code}"


def unless(condition: str, fails: str) -> str:
    return f"if {condition}; then serve; fi; {fails}"


def has(*words: str) -> str:
    """Whether the arguments hold these, next to each other."""
    return f'case " $* " in *{shlex.quote(" " + " ".join(words) + " ")}*) true;; *) false;; esac'


HANGS = {"startup_timeout_secs": 2.0, "startup_timeout_max_secs": 2.0}
NPX_FOLDER = "$HOME/.npm/_npx/8af3c01${HERE##*/f}"
BROKEN = f"mkdir -p {NPX_FOLDER}; [ -e $HERE/once ] || touch {NPX_FOLDER}/broken $HERE/once; "
STACK = "".join(f"    at Module._load (node:internal/modules/cjs/loader:{n}:27)\\n" for n in range(1000, 1025))

FAILURES = (
    # npx
    Failure(
        "npx asks before it installs",
        "npx",
        unless(
            has("-y"),
            "printf 'Need to install the following packages:\\nfoo@1.0.0\\nOk to proceed? (y) ' >&2; "
            "read answer; " + npm("canceled"),
        ),
        'add "-y" to args',
        ("foo",),
    ),
    Failure(
        "npx asks on stdout, for ever",
        "npx",
        unless(
            has("-y"),
            "printf 'Need to install the following packages:\\nfoo@1.0.0\\nOk to proceed? (y) '; exec sleep 60",
        ),
        'add "-y" to args',
        ("foo",),
        keys=HANGS,
    ),
    Failure(
        "npx, no YES option",
        "npx",
        unless(has("-y"), npm('npx canceled due to missing packages and no YES option: ["foo@1.0.0"]')),
        'add "-y" to args',
        ("foo",),
    ),
    Failure(
        "npx's copy lacks a file",
        "npx",
        BROKEN
        + unless(
            f"[ ! -e {NPX_FOLDER}/broken ]",
            'printf "node:internal/modules/esm/resolve:275\\n    throw new ERR_MODULE_NOT_FOUND(\\nError '
            f"[ERR_MODULE_NOT_FOUND]: Cannot find module '{NPX_FOLDER}/node_modules/zod/v4/external.js'\\n"
            f'{STACK}" >&2; exit 1',
        ),
        "rm -rf ",
        ("-y", "foo"),
    ),
    Failure(
        "npx's copy lacks a package",
        "npx",
        BROKEN
        + unless(
            f"[ ! -e {NPX_FOLDER}/broken ]",
            "printf \"Error: Cannot find module 'yargs'\\nRequire stack:\\n- "
            f'{NPX_FOLDER}/node_modules/foo/index.js\\n{STACK}" >&2; exit 1',
        ),
        "rm -rf ",
        ("-y", "foo"),
    ),
    Failure(
        "npx was ended while it installed",
        "npx",
        BROKEN
        + unless(
            f"[ ! -e {NPX_FOLDER}/broken ]",
            'printf "npm error code ENOTEMPTY\\nnpm error syscall rename\\nnpm error path '
            f'{NPX_FOLDER}/node_modules/foo\\nnpm error errno -39\\n" >&2; exit 217',
        ),
        "rm -rf ",
        ("-y", "foo"),
    ),
    Failure(
        "no such npm package",
        "npx",
        unless(
            has("right"),
            npm(
                "code E404",
                "404 Not Found - GET https://registry.npmjs.org/fooo - Not found",
                "404  'fooo@*' is not in this registry.",
                "404 or use the name yourself",
            ),
        ),
        'correct "fooo" in args',
        ("-y", "fooo"),
    ),
    Failure(
        "no such version",
        "npx",
        unless(has("right"), npm("code ETARGET", "notarget No matching version found for foo@9.9.9.")),
        'correct the version of "foo" in args',
        ("-y", "foo@9.9.9"),
    ),
    Failure(
        "a package without a program of its name",
        "npx",
        unless(has("-p", "foo", "foo-mcp"), npm("could not determine executable to run")),
        'write "-y", "-p", "PACKAGE", "PROGRAM" as args',
        ("-y", "foo"),
    ),
    Failure(
        "npm's cache is root's",
        "npx",
        unless(
            "[ -e $HOME/.npm/mine ]",
            npm(
                "code EACCES",
                "syscall open",
                "path /root/.npm/_cacache/x",
                "errno -13",
                "Your cache folder contains root-owned files, due to a bug in",
            ),
        ),
        "sudo chown -R",
        ("-y", "foo"),
        tools={"sudo": "mkdir -p $HOME/.npm; touch $HOME/.npm/mine"},
    ),
    Failure(
        "a registry that wants a login",
        "npx",
        unless("[ -e $HERE/known ]", npm("code E401", "Incorrect or missing password.")),
        "npm login",
        ("-y", "@corp/foo"),
        tools={"npm": "touch $HERE/known"},
    ),
    Failure(
        "Node.js too old for npm",
        "npx",
        unless(
            "[ -e $HERE/new ]",
            npm(
                "code EBADENGINE",
                "engine Not compatible with your version of node/npm: x@1.0.0",
                'notsup Required: {"node":">=20"}',
                'notsup Actual:   {"node":"v16.1.0"}',
            ),
        ),
        "node --version",
        ("-y", "foo"),
        then="touch new",
        tools={"node": "echo v16.1.0"},
    ),
    # uvx, Python
    Failure(
        "Python too old for uvx",
        "uvx",
        unless(
            has("--python", "3.12"),
            says(
                "  × No solution found when resolving tool dependencies:\n  ╰─▶ Because the "
                "current Python version (3.11.2) does not satisfy Python>=3.12 and foo==1 depends on Python>=3.12"
            ),
        ),
        'add "--python", "3.12" to args',
        ("foo",),
    ),
    Failure(
        "a program of another name in the package",
        "uvx",
        unless(
            has("--from", "foo", "foo-mcp"),
            says(
                "An executable named `foo` is not provided by package `foo`.\nThe "
                "following executables are available:\n- foo-mcp\n"
            ),
        ),
        'replace "foo" in args',
        ("foo",),
    ),
    Failure(
        "written for mcp 1, got mcp 2",
        "uvx",
        unless(
            has("--with", "mcp<2"),
            says(
                'Traceback (most recent call last):\n  File "/x/server.py", line 9, in '
                "main\n    @server.list_resources()\nAttributeError: 'Server' object has no attribute 'list_resources'"
            ),
        ),
        'add "--with", "mcp<2" to args',
        ("foo",),
    ),
    Failure(
        "a dependency that was forgotten",
        "uvx",
        unless(
            has("--with", "yaml"),
            says(
                'Traceback (most recent call last):\n  File "/x/server.py", line 9\n'
                "ModuleNotFoundError: No module named 'yaml'"
            ),
        ),
        'add "--with", "yaml" to args',
        ("foo",),
    ),
    Failure(
        "no such package on PyPI",
        "uvx",
        unless(
            has("right"),
            says(
                "  × No solution found when resolving tool dependencies:\n  ╰─▶ Because fooo was not "
                "found in the package registry and you require fooo, we can conclude that"
            ),
        ),
        'correct "fooo" in args',
        ("fooo",),
    ),
    Failure(
        "a private certificate authority",
        "uvx",
        unless(
            '[ -n "$SSL_CERT_FILE" ]',
            says(
                "error: Request failed after 3 retries\n  Caused by: Failed to fetch: "
                "`https://pypi.org/simple/foo/`\n  Caused by: client error (Connect)\n  Caused by: invalid peer "
                "certificate: UnknownIssuer",
                2,
            ),
        ),
        'env_pass = ["SSL_CERT_FILE"] in',
        ("foo",),
    ),
    Failure(
        "a module that is not installed",
        "python3",
        'case "$*" in "-m pip install "*) touch $HERE/$4; exit;; esac; '
        + unless(
            "[ -e $HERE/fastmcp ]",
            says(
                'Traceback (most recent call last):\n  File "/srv/s.py", line 1, in <module>\n'
                "    from fastmcp import FastMCP\nModuleNotFoundError: No module named "
                "'fastmcp'"
            ),
        ),
        "-m pip install fastmcp",
        ("/srv/s.py",),
    ),
    Failure(
        "a script that is not there",
        "python3",
        unless(has("right"), says("python3: can't open file '/srv/sever.py': [Errno 2] No such file or directory", 2)),
        "correct /srv/sever.py in args",
        ("/srv/sever.py",),
    ),
    # Node
    Failure(
        "packages of a server of one's own",
        "node",
        unless(
            "[ -e $HERE/node_modules ]",
            'printf "node:internal/modules/cjs/loader:1228\\n  throw err;\\n  ^\\n\\nError:'
            " Cannot find module 'express'\\nRequire stack:\\n- $HERE/index.js\\n"
            + STACK
            + "  code: 'MODULE_NOT_FOUND',\\n}\\n\\nNode.js v22.1.0\\n\" >&2; exit 1",
        ),
        "npm install)",
        ("index.js",),
        tools={"npm": "mkdir -p node_modules"},
    ),
    Failure(
        "a script that was not built",
        "node",
        unless(
            has("right"),
            says(
                "Error: Cannot find module '/srv/dist/index.js'\n    at Module._resolveFilename (x:1:2)"
                "\n  code: 'MODULE_NOT_FOUND',\n  requireStack: []\n}\n\nNode.js v22.1.0"
            ),
        ),
        "correct /srv/dist/index.js in args",
        ("/srv/dist/index.js",),
    ),
    Failure(
        "Node.js too old for the server",
        "node",
        unless(
            "[ -e $HERE/new ]",
            says(
                "/x/index.js:3\nconst answer = await fetch(url)\n^\nReferenceError: fetch is not "
                "defined\n    at main (/x/index.js:3:1)\n\nNode.js v16.20.0"
            ),
        ),
        "node --version",
        ("index.js",),
        then="touch new",
    ),
    Failure(
        "Node.js out of memory",
        "node",
        unless(
            '[ -n "$NODE_OPTIONS" ]',
            says(
                "<--- Last few GCs --->\nFATAL ERROR: Reached heap limit Allocation failed - "
                "JavaScript heap out of memory",
                134,
            ),
        ),
        'env = { NODE_OPTIONS = "--max-old-space-size=4096" }',
        ("index.js",),
    ),
    # docker
    Failure(
        "docker run without -i",
        "docker",
        unless(has("run", "-i"), "exit 0"),
        'add "-i" to args',
        ("run", "--rm", "img"),
    ),
    Failure(
        "docker run -it",
        "docker",
        unless(has("-i"), says("the input device is not a TTY")),
        'replace "-it" by "-i" in args',
        ("run", "-it", "img"),
    ),
    Failure(
        "a container of that name is left",
        "docker",
        '[ "$1" = run ] || { touch $HERE/gone; exit; }; '
        + unless(
            "[ -e $HERE/gone ]",
            says(
                'docker: Error response from daemon: Conflict. The container name "/mcp-files" is already in use by '
                'container "3f". You have to remove (or rename) that container to be able to reuse that name.',
                125,
            ),
        ),
        "docker rm -f mcp-files",
        ("run", "-i", "--name", "mcp-files", "img"),
    ),
    Failure(
        "docker's daemon does not run",
        "docker",
        unless(
            "[ -e $HERE/up ]",
            says(
                "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the "
                "docker daemon running?",
                125,
            ),
        ),
        "sudo systemctl start docker",
        ("run", "-i", "img"),
        tools={"sudo": "[ $1 = systemctl ] && touch $HERE/up"},
    ),
    Failure(
        "may not use docker",
        "docker",
        unless(
            "[ -e $HERE/may ]",
            says(
                "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
                125,
            ),
        ),
        "sudo usermod -aG docker",
        ("run", "-i", "img"),
        tools={"sudo": "touch $HERE/may"},
    ),
    Failure(
        "no such image",
        "docker",
        '[ "$1" = run ] || { touch $HERE/$(echo $2 | tr / _); exit; }; '
        + unless(
            "[ -e $HERE/mcp_fetch ]",
            says(
                "Unable to find image 'mcp/fetch' locally\ndocker: Error response from daemon: pull access denied for "
                "mcp/fetch, repository does not exist or may require 'docker login'",
                125,
            ),
        ),
        "docker pull mcp/fetch",
        ("run", "-i", "mcp/fetch"),
    ),
    # what it is given
    Failure(
        "a variable that is missing",
        "server",
        unless('[ "$GITHUB_TOKEN" = right ]', says("Error: GITHUB_TOKEN is required\n    at main (x.js:1:2)")),
        "moltis env set GITHUB_TOKEN",
    ),
    Failure(
        "a variable that is missing, in colours",
        "server",
        unless(
            '[ "$GITLAB_ACCESS_TOKEN" = right ]',
            "printf '\\033[36mGITLAB_ACCESS_TOKEN environment variable is not set\\033[39m\\n' >&2; exit 1",
        ),
        "moltis env set GITLAB_ACCESS_TOKEN",
    ),
    Failure(
        "a key that is refused",
        "server",
        unless(
            '[ "$SLACK_TOKEN" = right ]',
            says(
                'time=1 level=fatal msg="Authentication failed: invalid_auth"\n'
                + "\n".join(f"goroutine {n} [running]:\n\t/src/main.go:{n} +0x1d" for n in range(20)),
                2,
            ),
        ),
        "moltis env set SLACK_TOKEN",
        env={"SLACK_TOKEN": "wrong"},
    ),
    Failure(
        "a key that is refused, kept under another name",
        "server",
        unless('[ "$API_TOKEN" = right ]', says("Error: 401 Unauthorized: API_TOKEN is no token of ours")),
        "moltis env set MY_KEPT_TOKEN ",
        env={"API_TOKEN": "$MY_KEPT_TOKEN"},
        kept={"MY_KEPT_TOKEN": "wrong"},
    ),
    Failure(
        "a key that is refused, in [env]",
        "server",
        unless('[ "$API_TOKEN" = right ]', says("Error: API_TOKEN is not defined or invalid")),
        'MY_WRITTEN_TOKEN = "..." in [env] of moltis.toml',
        env={"API_TOKEN": "$MY_WRITTEN_TOKEN"},
        written={"MY_WRITTEN_TOKEN": "wrong"},
    ),
    Failure(
        "a placeholder without a value",
        "server",
        unless('[ "$API_TOKEN" = right ]', "exit 1"),
        "moltis env set NO_TOKEN_YET",
        env={"API_TOKEN": "${NO_TOKEN_YET}"},
    ),
    Failure(
        "an option that it does not know",
        "server",
        unless(f"! {{ {has('--verbose')}; }}", says("error: unknown option '--verbose'", 1)),
        'remove "--verbose" from args',
        ("--verbose",),
    ),
    Failure(
        "a folder that is not there",
        "server",
        unless(
            "[ -d $HERE/notes ]",
            'printf "Error accessing directory $HERE/notes: ENOENT: no such file or directory, '
            "stat '$HERE/notes'\\n\" >&2; exit 1",
        ),
        "ls -ld ",
        then="mkdir notes",
    ),
    Failure(
        "a file that it may not read",
        "server",
        "[ -e $HERE/once ] || { echo x > $HERE/key; chmod 0 $HERE/key; touch $HERE/once; }; "
        + unless(
            '[ -n "$(find $HERE/key -perm -400)" ]',
            "printf \"Error: EACCES: permission denied, open '$HERE/key'\\n\" >&2; exit 1",
        ),
        "chmod u+rwX ",
    ),
    Failure(
        "no cluster",
        "server",
        unless(
            '[ "$KUBECONFIG" = "$HOME/.kube/config" ]',
            says(
                "Error: no current-context is set and no contexts are defined in kubeconfig\nUsage:\n  server [command]"
                "\n\nFlags:\n      --kubeconfig string   Path to the kubeconfig file"
            ),
        ),
        'env = { KUBECONFIG = "~/.kube/config" }',
    ),
    Failure(
        "a key whose name it does not say",
        "server",
        unless('[ "$SHORTCUT_API_TOKEN" = right ]', says("A Shortcut api token is required.")),
        "moltis env set SHORTCUT_API_TOKEN",
        env={"SHORTCUT_API_TOKEN": ""},
    ),
    Failure(
        "it says nothing", "server", unless("[ -e $HERE/up ]", "exit 1"), "run `", then="touch up", by="its backend"
    ),
    # what it holds, or lacks
    Failure(
        "a port that is held",
        "server",
        unless(
            "[ -e $HERE/free ]", says("Error: listen EADDRINUSE: address already in use :::3000\n    at Server.listen")
        ),
        "ss -ltnp 'sport = :3000'",
        then="touch free",
        tools={"ss": "echo users"},
    ),
    Failure(
        "another copy of it",
        "server",
        unless("[ -e $HERE/free ]", says("Error: profile is already in use by another process")),
        "pgrep -af server",
        then="touch free",
    ),
    Failure(
        "a full disk",
        "server",
        unless("[ -e $HERE/room ]", says("Error: ENOSPC: no space left on device, write")),
        "df -h",
        then="touch room",
    ),
    Failure(
        "killed for want of memory",
        "server",
        unless("[ -e $HERE/room ]", "kill -9 $$"),
        "dmesg | grep",
        then="touch room",
    ),
    Failure(
        "its backend does not run",
        "server",
        unless("[ -e $HERE/up ]", says("Error: connect ECONNREFUSED 127.0.0.1:5432")),
        "start what listens at 127.0.0.1:5432",
        then="touch up",
    ),
    Failure(
        "no network, for a while",
        "npx",
        unless(
            "[ -e $HERE/net ]",
            npm(
                "code EAI_AGAIN",
                "syscall getaddrinfo",
                "errno EAI_AGAIN",
                "request to https://registry.npmjs.org/foo failed, reason: getaddrinfo EAI_AGAIN registry.npmjs.org",
            ),
        ),
        "ping -c 1 1.1.1.1",
        ("-y", "foo"),
        then="touch net",
        tools={"ping": "exit 2"},
    ),
    Failure(
        "a program that is not installed",
        "server",
        unless("command -v git-mcp >/dev/null", says("sh: 1: git-mcp: not found", 127)),
        "which git-mcp",
        then='ln -s /bin/sh "$HOME/bin/git-mcp"',
    ),
    Failure(
        "Node is not on the daemon's PATH",
        "server",
        unless("command -v nodejs-of-nvm >/dev/null", says("env: ‘nodejs-of-nvm’: No such file or directory", 127)),
        "which nodejs-of-nvm",
        then='ln -s /bin/sh "$HOME/bin/nodejs-of-nvm"',
    ),
    # what it speaks
    Failure(
        "it speaks LSP framing",
        "server",
        unless("false", f"while read -r line; do printf 'Content-Length: 36\\r\\n\\r\\n{REPLY}'; done"),
        "speaks LSP framing",
        keys=HANGS,
        by="a flag for MCP, if it has one",
    ),
    Failure(
        "its JSON has line breaks",
        "server",
        unless("false", 'read line; printf \'{\\n  "jsonrpc": "2.0",\\n  "id": 1\\n}\\n\'; sleep 60'),
        "its JSON has line breaks",
        keys=HANGS,
        by="who makes it",
    ),
    Failure(
        "it writes UTF-16",
        "server",
        unless('[ "$PYTHONIOENCODING" = utf-8 ]', f"read line; printf '{REPLY}\\n' | iconv -t UTF-16; sleep 60"),
        'env = { PYTHONIOENCODING = "utf-8" }',
        keys=HANGS,
    ),
    Failure(
        "it serves HTTP",
        "server",
        unless(has("--stdio"), "echo 'MCP server listening on http://localhost:8000/mcp' >&2; exec sleep 60"),
        'add "--stdio" to args',
        keys=HANGS,
    ),
    Failure("it prints its help and ends", "server", unless(has("--stdio"), "exit 0"), 'add "--stdio" to args'),
    Failure("it needs longer than it has", "server", "sleep 3; serve", "startup_timeout_secs = 10 in", keys=HANGS),
    Failure("it is not there", "absent", "", "which ", then="cp server absent", tools={"server": "serve"}),
    Failure("it is not executable", "server", "chmod +x $HERE/server; serve", "chmod +x "),
    Failure("its folder is not there", "server", "serve", "mkdir -p ", keys={"cwd": "~/not there"}),
)


class Trial:
    """One daemon, in whose folder each failure has a folder of its own with its program."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.folders: dict[str, Path] = {}
        (daemon.folder / "bin").mkdir()
        for variable in withheld(daemon.env, ()):  # proxies and authorities of this machine
            del daemon.env[variable]
        daemon.env |= {"PATH": f"{daemon.folder}/bin:{os.environ['PATH']}", "SSL_CERT_FILE": "/dev/null"}

    def start(self) -> None:
        entries = {}
        for number, failure in enumerate(FAILURES):
            name, folder = f"f{number}", self.daemon.folder / f"f{number}"
            folder.mkdir()
            self.folders[name] = folder
            scripts = {failure.program: failure.script, **failure.tools}
            for program, script in scripts.items():
                if script:
                    self._write(folder / program, folder, script)
            if failure.first == "chmod +x ":
                (folder / failure.program).chmod(0o600)
            env = {"MOLTIS_TEST_MARK": self.daemon.mark, **failure.env}
            entries[name] = {
                "command": str(folder / failure.program), "args": list(failure.args), "env": env, **failure.keys,
            }  # fmt: skip
            for variable, value in failure.kept.items():
                self.daemon.cli("env", "set", variable, value)
        self.daemon.write(entries, env={k: v for failure in FAILURES for k, v in failure.written.items()})
        self.daemon.start()

    def _write(self, file: Path, folder: Path, script: str) -> None:
        server = shlex.join([PYTHON, "-S", "-E", str(EVIL), "--mark", self.daemon.mark])
        head = f"#!/bin/sh\nHERE={shlex.quote(str(folder))}\nserve() {{ exec {server}; }}\n"
        file.write_text(head + script + "\n")
        file.chmod(0o700)

    def first_advice(self, name: str) -> str:
        """Give the first line of "What to do" once the server has failed."""
        self.daemon.wait_for(name, *FAILED)
        return self.why(name)[0]

    def why(self, name: str) -> list[str]:
        """Give the lines of "What to do"."""
        told = self.daemon.cli("why", name)
        lines = [line.strip() for line in told.stdout.partition("What to do:\n")[2].splitlines()]
        assert lines, told
        return lines

    def mend(self, name: str, failure: Failure, advice: str) -> str:
        """Follow an advice to the letter, and say what that came to: `ready`, or the state it is in."""
        self.follow(name, failure, advice)
        if failure.then:
            self._run(name, failure.then)
        self.daemon.rpc("mcp.restart", name=name)
        wait_until(f"{name} has got somewhere", lambda: self._settled(name), tell=lambda: self.daemon.history(name))
        return str(self.daemon.status(name)["state"])

    def _settled(self, name: str) -> bool:
        return self.daemon.status(name)["state"] not in ("starting", "initializing", "stopping")

    def follow(self, name: str, failure: Failure, advice: str) -> None:
        """Do what one line says."""
        what, _, _ = advice.partition("    (")
        args = list(failure.args)
        words = re.findall(r'"([^"]*)"', what)
        if match := re.fullmatch(r"moltis env set (\w+)", what):
            self.daemon.rpc("env.set", name=match[1], value=failure.value)
            if "(and env = {" in advice:
                self._update(name, env={**failure.env, match[1]: f"${match[1]}"})
        elif match := re.fullmatch(r'(\w+) = "\.\.\." in \[env\] of moltis\.toml', what):
            text = self.daemon.config.read_text()
            self.daemon.rewrite(re.sub(rf'(?m)^{match[1]} = ".*"$', f'{match[1]} = "{failure.value}"', text))
            self.daemon.rpc("daemon.reload")
        elif re.fullmatch(r"add .* to args in \[.*\], as the first", what):
            self._update(name, args=words + args)
        elif re.fullmatch(r"add .* to args in \[.*\], as the last", what):
            self._update(name, args=args + words)
        elif re.fullmatch(r'add .* to args in \[.*\], right after "run"', what):
            at = args.index("run") + 1
            self._update(name, args=args[:at] + words[:1] + args[at:])
        elif re.fullmatch(r'replace "[^"]+" (?:in args of \[.*\] by|by "[^"]+" in args of) .*', what):
            at = args.index(words[0])
            self._update(name, args=args[:at] + words[1:] + args[at + 1 :])
        elif re.fullmatch(r'remove "[^"]+" from args in .*', what):
            self._update(name, args=[arg for arg in args if arg != words[0]])
        elif re.fullmatch(r"correct .* in args of .*", what):
            self._update(name, args=[*args[:-1], failure.value])
        elif re.fullmatch(r"write .* as args in .*", what):
            self._update(name, args=["-y", "-p", "foo", "foo-mcp"])
        elif match := re.fullmatch(r"env = \{ (\w+) = (\".*\") \} in \[.*\]", what):
            self._update(name, env={**failure.env, match[1]: json.loads(match[2])})
        elif match := re.fullmatch(r"(\w+) = (.+?) in \[mcp\.servers\.\w+\].*", what):
            self._update(name, **{match[1]: json.loads(match[2])})
        elif not failure.by and not what.startswith("start what"):
            self._run(name, what)

    def _update(self, name: str, **keys: Any) -> None:
        if "env" in keys:
            keys["env"] = {"MOLTIS_TEST_MARK": self.daemon.mark, **keys["env"]}
        self.daemon.rpc("mcp.update", name=name, **keys)

    def _run(self, name: str, command: str) -> None:
        folder = self.folders[name]
        env = {**self.daemon.env, "PATH": f"{folder}:{self.daemon.env['PATH']}", "HERE": str(folder)}
        subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, timeout=30, check=False)


def main() -> int:
    """Print the table, and exit with 1 if an advice does not mend."""
    options = argparse.ArgumentParser(description="Have programs fail as people's do, and print what moltis why says.")
    options.add_argument("words", nargs="*", metavar="WORD")
    words = options.parse_args().words
    wrong = tried = 0
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as place:
        daemon = Daemon(Path(place))
        try:
            trial = Trial(daemon)
            trial.start()
            for number, failure in enumerate(FAILURES):
                if words and not any(word in failure.name for word in words):
                    continue
                name, tried = f"f{number}", tried + 1
                advice = trial.first_advice(name)
                state = trial.mend(name, failure, advice)
                mended = "mended" if state == "ready" else f"mended by {failure.by}" if failure.by else f"NOT: {state}"
                after = f", after `{failure.then}`" if failure.then and state == "ready" else ""
                wrong += failure.first not in advice or (state != "ready" and not failure.by)
                sys.stdout.write(f"{number + 1:2}  {failure.name}\n    {advice}\n    -> {mended}{after}\n")
                sys.stdout.flush()
        finally:
            daemon.end_everything()
    sys.stdout.write(f"{tried} failures, {wrong} with the wrong advice\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
