"""What has to hold, in sessions: `.venv/bin/nox --list` names them. README's test command runs the three lanes at once.

    .venv/bin/pip install -q -e '.[test]' nox && .venv/bin/nox -s check unit

Each runs with the interpreter that nox runs with, and what is installed there: nothing is installed twice. What stands
after `--` is for pytest, or for benchmarks/run.py.
"""

from __future__ import annotations

import os
import sys

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "unit", "e2e", "perf"]

CORES = os.cpu_count() or 1


def pytest(session: nox.Session, *words: str) -> None:
    # Without compiled files each process rewrites the assertions of all that it imports, which takes twice as long as
    # to collect it.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run(sys.executable, "-m", "pytest", *words, *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Style and types."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")
    session.run(sys.executable, "-m", "mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """Tests that need no process of their own: they compute, and some wait, so one more than there are cores."""
    pytest(session, "-m", "unit", "-n", str(CORES + 1), "--dist", "worksteal")


@nox.session
def e2e(session: nox.Session) -> None:
    """Tests of daemons, servers and hosts as processes: half of the time they wait, so two for each core."""
    pytest(session, "-m", "e2e", "-n", str(2 * CORES), "--dist", "worksteal")


@nox.session
def perf(session: nox.Session) -> None:
    """Tests that measure by the wall, one after the other: run nothing else meanwhile."""
    pytest(session, "-m", "perf")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every reader of what comes from outside, for as long as MOLTIS_FUZZ_EXAMPLES (600) examples of each take."""
    examples = os.environ.get("MOLTIS_FUZZ_EXAMPLES", "600")
    files = ("tests/test_fuzzing.py", "tests/gateway/http/test_gateway_http_fuzzing.py")
    session.env["MOLTIS_FUZZ_EXAMPLES"] = examples
    pytest(session, "-q", "-p", "no:cacheprovider", "--timeout", "600", *files)


@nox.session
def docs(session: nox.Session) -> None:
    """What is generated in docs/ is what the code does today, links lead somewhere, and hosts read README's rows."""
    pytest(session, "-q", "tests/test_documentation.py", "tests/test_documented_hosts.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Every figure of benchmarks/ with its limit. Linux only; run nothing else meanwhile."""
    session.run(sys.executable, "benchmarks/run.py", *session.posargs)
