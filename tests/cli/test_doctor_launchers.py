"""What the doctor says of `docker run`, and of packages whose version is not written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moltis.config.plan import Plan, ServerPlan, StdioLaunch
from moltis.containers import docker_run
from moltis.doctor import Finding, Verdict, check_servers
from moltis.packages import unpinned

SERVICE_PATH = "/usr/bin:/bin"


def program(folder: Path, *names: str) -> str:
    """Make programs and give their PATH."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o700)
    return str(folder)


def found(path: str, *servers: tuple[str, ...], home: Path = Path("/nowhere")) -> list[Finding]:
    """Give what is wrong with servers, each a command and its arguments, called a, b, c, ..."""
    plans = (
        ServerPlan(name=chr(97 + n), launch=StdioLaunch(command, tuple(args)))
        for n, (command, *args) in enumerate(servers)
    )
    findings = check_servers(Plan(servers=tuple(plans)), {"PATH": path, "HOME": str(home)}, None)
    return [finding for finding in findings if finding.verdict in (Verdict.WARN, Verdict.FAIL)]


@pytest.mark.parametrize(
    ("args", "lacks", "forbidden"),
    [
        ("run img", ["-i", "--rm", "--init", "--name"], []),
        ("run -i --rm --init --name x img", [], []),
        ("run -i --rm --init --cidfile /x img", [], []),
        ("run --interactive --rm=true --init=false --name=x img", ["--init"], []),
        ("container run -i --init --name x img", ["--rm"], []),
        ("run -it --rm --init --name x img", [], ["-t"]),
        ("run -di --rm --init --name x img", [], ["-d"]),
        ("run -e A=1 -v /a:/b --mount type=bind -p 8:8 -i --rm --init --name x img -t -d", [], []),
        ("run -eA=1 -u1000 --network host img -i --rm --init --name x", ["-i", "--rm", "--init", "--name"], []),
        ("run --env -i --rm --init --name x img", ["-i"], []),
    ],
)
def test_what_a_docker_run_lacks_is_told_with_what_to_add(
    tmp_path: Path, args: str, lacks: list[str], forbidden: list[str]
) -> None:
    findings = found(program(tmp_path / "bin", "docker"), (str(tmp_path / "bin/docker"), *args.split()))
    hints = " ".join(finding.hint for finding in findings if finding.message.startswith("a: docker run without"))
    assert [option for option in ("-i", "--rm", "--init", "--name") if f'"{option}"' in hints] == lacks
    told = [finding for finding in findings if finding.message.startswith("a: docker run with ")]
    assert [option for option in forbidden if any(f"with {option}" in finding.message for finding in told)] == forbidden
    assert len(told) == len(forbidden)
    assert all(f.verdict is Verdict.FAIL for f in findings if '"-i"' in f.hint or f in told)


@pytest.mark.parametrize(
    ("command", "args"), [("docker", ["ps"]), ("docker", []), ("dockerd", ["run"]), ("npx", ["run"])]
)
def test_what_is_no_docker_run_is_not_looked_at(command: str, args: list[str]) -> None:
    assert docker_run(command, args) is None


@pytest.mark.parametrize(
    ("command", "args", "pinned"),
    [
        ("npx", "-y foo", "foo@VERSION"),
        ("/usr/bin/npx", "--yes @a/foo@latest --port 1", "@a/foo@VERSION"),
        ("npx", "-y foo@^1.2.0", "foo@VERSION"),
        ("npx", "-y -p @a/foo foo-mcp", "@a/foo@VERSION"),
        ("npx", "--package=foo foo-mcp", "foo@VERSION"),
        ("npx", "--registry https://r.test -y foo", "foo@VERSION"),
        ("npm", "exec -y -- foo", "foo@VERSION"),
        ("uvx", "foo", "foo@VERSION"),
        ("uvx", "--python 3.12 --with mcp<2 foo@latest", "foo@VERSION"),
        ("uvx", "--from foo>=1 foo-mcp", "foo==VERSION"),
        ("uvx", "--from foo[cli] foo-mcp", "foo[cli]==VERSION"),
        ("uv", "tool run foo", "foo@VERSION"),
    ],
)
def test_a_package_without_a_version_is_named_with_what_to_write(command: str, args: str, pinned: str) -> None:
    package = unpinned(command, args.split(), {"HOME": "/nowhere"})
    assert package is not None
    assert (package.pinned, package.version) == (pinned, None)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("npx", "-y foo@1.2.3"), ("npx", "-y @a/foo@1.2.3-beta.1"), ("npx", "-y github:a/b"), ("npx", "-y ./here"),
        ("npx", "-y https://x.test/a.tgz"), ("npx", "--api-key s3cret foo"), ("npx", ""), ("npx", "-y"),
        ("uvx", "foo@1.2"), ("uvx", "foo==1.2.3"), ("uvx", "--from foo==1.2 x"),
        ("uvx", "--from git+https://x.test/a x"),
        ("uvx", "--what s3cret foo"), ("uv", "run foo"), ("python3", "-m foo"), ("npm", "start"),
    ],
)  # fmt: skip
def test_what_is_pinned_or_no_package_of_a_registry_is_not_named(command: str, args: str) -> None:
    assert unpinned(command, args.split(), {"HOME": "/nowhere"}) is None


def npx_folder(home: Path, hash: str, packages: list[str], installed: dict[str, str]) -> None:
    """Make a folder as libnpmexec of npm 10 does."""
    folder = home / ".npm/_npx" / hash
    for name, version in installed.items():
        module = folder / "node_modules" / name
        module.mkdir(parents=True)
        (module / "package.json").write_text(json.dumps({"name": name, "version": version}))
    made = {
        "dependencies": {name: f"^{version}" for name, version in installed.items()},
        "_npx": {"packages": packages},
    }
    (folder / "package.json").write_text(json.dumps(made))


def test_the_version_that_npx_has_installed_is_read_from_its_folder(tmp_path: Path) -> None:
    npx_folder(tmp_path, "aa11", ["@a/foo"], {"@a/foo": "1.2.3", "zod": "3.0.0"})
    npx_folder(tmp_path, "bb22", ["@a/foo@0.9.0"], {"@a/foo": "0.9.0"})
    (tmp_path / ".npm/_npx/cc33").mkdir()
    (tmp_path / ".npm/_npx/cc33/package.json").write_text("[not json")
    package = unpinned("npx", ["-y", "@a/foo"], {"HOME": str(tmp_path)})
    assert package is not None
    assert (package.version, package.pinned) == ("1.2.3", "@a/foo@1.2.3")
    moved = unpinned("npx", ["-y", "@a/foo"], {"HOME": "/nowhere", "NPM_CONFIG_CACHE": str(tmp_path / ".npm")})
    assert moved is not None
    assert moved.version == "1.2.3"


def test_the_version_that_uvx_has_installed_is_read_from_its_environments(tmp_path: Path) -> None:
    cache = tmp_path / ".cache/uv/archive-v0"
    for place in ("x1/foo_mcp-0.9.0.dist-info", "x2/lib/python3.11/site-packages/foo_mcp-0.10.1.dist-info",
                  "x3/lib/python3.12/site-packages/foo_mcp-0.9.0.dist-info"):  # fmt: skip
        (cache / place).mkdir(parents=True)
    package = unpinned("uvx", ["foo-mcp"], {"HOME": str(tmp_path)})
    assert package is not None
    assert (package.version, package.pinned) == ("0.10.1", "foo-mcp@0.10.1")
    tool = tmp_path / ".local/share/uv/tools/foo-mcp/lib/python3.12/site-packages/foo_mcp-0.3.0.dist-info"
    tool.mkdir(parents=True)
    package = unpinned("uvx", ["Foo.MCP"], {"HOME": str(tmp_path)})
    assert package is not None
    assert package.version == "0.3.0", "an installed tool is what uvx runs"


def test_the_doctor_names_what_is_not_pinned(tmp_path: Path) -> None:
    npx_folder(tmp_path, "aa11", ["foo"], {"foo": "1.2.3"})
    path = program(tmp_path / "bin", "npx", "node")
    (finding,) = found(path, (f"{path}/npx", "-y", "foo"), home=tmp_path)
    assert finding.verdict is Verdict.WARN
    assert finding.message == "a: npx runs foo in whatever version is the newest (now 1.2.3)"
    assert finding.hint == 'write "foo@1.2.3" in args in [mcp.servers.a] to keep that one'


def test_what_is_the_matter_with_several_servers_is_said_once(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "tool")
    (finding,) = found(f"{path}:{SERVICE_PATH}", *[("tool",)] * 8)
    assert finding.message.startswith("a, b, c, d, e and 3 more: tool is ")
    assert "not on the PATH of a service" in finding.message
    (missing,) = found(SERVICE_PATH, ("no-such-tool",), ("no-such-tool",))
    assert missing.message == "a, b: not on PATH: no-such-tool"
