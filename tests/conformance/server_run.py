"""Run the server scenarios of the MCP conformance suites, directly and through the daemon, and print both as Markdown.

    server_run.py [--direct] [--keep FOLDER] [--docs]

The server is tests/servers/fixture_server.py: directly its own Streamable HTTP, through the daemon its stdio behind
`/servers/NAME/mcp`, in the era that the suite speaks. What is run: version 0.1.16, and 0.2 at 2025-11-25 and at
2026-07-28, all their scenarios but those of extensions; those of 2025 also translated, through the daemon to the same
server at 2026-07-28. (Those of 2026-07-28 cannot be: they name what a server is to ask at once, and a legacy server
asks one thing after the other.) Exit status 0: every scenario that passes directly passes through the daemon, and
warns of nothing of which it did not warn directly.

--direct runs nothing through the daemon; --keep leaves what the suites said in FOLDER; --docs puts the table into
docs/conformance.md, with its date.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from run import MODERN, NEW, OLD, Suite, replace_in_docs

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from gateway_harness import fixture, fixture_over_http, gateway_url, start
from harness import Daemon

LEGACY = "2025-11-25"
RUN_WITHIN = 120.0
SCENARIO_WITHIN = 10.0
BEGIN, END = "<!-- server conformance -->", "<!-- /server conformance -->"

Way = Literal["direct", "through", "translated"]
"""To the server itself, through the daemon, or through the daemon to the same server in the other era."""


@dataclass(frozen=True)
class Round:
    """One version of the suite at one protocol revision; None is what each scenario of 0.1.16 takes."""

    version: str
    revision: str | None

    @property
    def title(self) -> str:
        return f"{self.version} at {self.revision}" if self.revision else self.version

    @property
    def legacy(self) -> bool:
        return self.revision != MODERN

    def server(self, way: Way) -> str:
        """Give the name of the fixture that this round has to itself."""
        return re.sub(r"\W+", "-", f"{self.title} {way}")

    @property
    def ways(self) -> tuple[Way, ...]:
        """Give the ways through the daemon."""
        return ("through", "translated") if self.legacy else ("through",)

    def protocol(self, way: Way) -> dict[str, str]:
        """Give the key of moltis.toml that decides in which era the fixture speaks."""
        return {"protocol": "legacy" if self.legacy and way == "through" else MODERN}


ROUNDS = (Round(OLD, None), Round(NEW, LEGACY), Round(NEW, MODERN))


@dataclass(frozen=True)
class Result:
    """What a scenario came to: how many of its checks succeeded, and what failed or was warned of."""

    succeeded: int
    failed: tuple[str, ...] = ()
    warned: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def cell(self) -> str:
        """Say it in a cell of the table. A scenario that asks nothing of such a server has no checks to count."""
        counted = f"{self.succeeded}/{self.succeeded + len(self.failed)} " if self.succeeded or self.failed else ""
        warned = f", {len(self.warned)} warned" if self.warned else ""
        return f"{counted}{'ok' if self.ok else 'failed'}{warned}"


NOT_RUN = Result(0, ("the suite did not run it",))


Results = Mapping[str, Result]
"""By scenario."""


@dataclass(frozen=True)
class Outcomes:
    """The results of one round; empty for a way that was not taken."""

    round: Round
    direct: Results
    through: Results
    translated: Results

    def worse(self) -> list[str]:
        """Say what passes directly and does not pass through the daemon."""
        found = worse_than(self.direct, self.through)
        if self.translated:
            found += [f"{line} (translated)" for line in worse_than(self.direct, self.translated)]
        return [f"{self.round.title} {line}" for line in found]

    def __str__(self) -> str:
        ways = {"directly": self.direct, "through the daemon": self.through, "translated": self.translated}
        counted = [f"{sum(r.ok for r in results.values())} {way}" for way, results in ways.items() if results]
        return f"{self.round.title}: of {len(self.direct)} scenarios {', '.join(counted)}"


def worse_than(direct: Results, other: Results) -> list[str]:
    found = []
    for name, result in direct.items():
        if result.ok:
            found += [f"{name}: {why}" for why in other[name].failed]
            found += [f"{name}: warned: {why}" for why in sorted(other[name].warned - result.warned)]
    return found


def scenarios(suite: Suite, of: Round) -> list[str]:
    words = ["list", "--server", *(["--spec-version", of.revision] if of.revision else [])]
    command = suite.command(of.version, *words)
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=suite.env)
    return re.findall(r"^\s+- (\S+)", listed.stdout, re.MULTILINE)


def ask(suite: Suite, of: Round, names: Sequence[str], url: str, place: Path) -> dict[str, Result]:
    """Run all scenarios of a round, these names, against a server; `place` gets what the suite said and its checks."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    words = ["server", "--url", url, "--suite", "all", "--output-dir", str(place)]
    if of.revision:
        words += ["--spec-version", of.revision, "--timeout", str(int(SCENARIO_WITHIN * 1000))]
    with (place / "said.txt").open("wb") as said, contextlib.suppress(subprocess.TimeoutExpired):
        command = suite.command(of.version, *words)
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=RUN_WITHIN,
            check=False,
            cwd=place,
            env=suite.env,
        )
    found = {}
    for checks in place.glob("server-*/checks.json"):
        name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", checks.parent.name.removeprefix("server-"))
        found[name] = result_of(json.loads(checks.read_bytes()))
    return {name: found.get(name, NOT_RUN) for name in names}


def result_of(checks: Sequence[Mapping[str, str]]) -> Result:
    def texts(status: str) -> list[str]:
        return [f"{c['name']}: {c.get('errorMessage', '')}" for c in checks if c["status"] == status]

    succeeded = sum(check["status"] == "SUCCESS" for check in checks)
    return Result(succeeded, tuple(texts("FAILURE")), frozenset(c["name"] for c in checks if c["status"] == "WARNING"))


@contextlib.contextmanager
def daemon_with_fixtures() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        daemon = Daemon(Path(name))
        servers = {r.server(way): fixture(daemon, **r.protocol(way)) for r in ROUNDS for way in r.ways}
        try:
            start(daemon, servers)
            daemon.wait_all()
            yield daemon
        finally:
            daemon.end_everything()


def ask_directly(suite: Suite, of: Round, names: Sequence[str], place: Path) -> Results:
    with fixture_over_http(f"mark-{uuid.uuid4().hex}") as url:
        return ask(suite, of, names, url, place / of.server("direct"))


def run_all(suite: Suite, place: Path, *, through: bool = True) -> list[Outcomes]:
    """Run all rounds at once, each against fixtures of its own. `place` gets a folder for each."""
    names = {r: scenarios(suite, r) for r in ROUNDS}
    with ThreadPoolExecutor(3 * len(ROUNDS)) as pool, contextlib.ExitStack() as stack:
        asked: dict[tuple[Round, Way], Future[Results]] = {}
        for r in ROUNDS:
            asked[r, "direct"] = pool.submit(ask_directly, suite, r, names[r], place)
        if through:
            daemon = stack.enter_context(daemon_with_fixtures())
            for r in ROUNDS:
                for way in r.ways:
                    name = r.server(way)
                    asked[r, way] = pool.submit(ask, suite, r, names[r], gateway_url(daemon, name), place / name)
        results = {key: future.result() for key, future in asked.items()}
    return [Outcomes(r, *(results.get((r, way), {}) for way in get_args(Way))) for r in ROUNDS]


def table(rounds: Sequence[Outcomes]) -> str:
    """Give the Markdown table: a row for each scenario, two columns for each round."""
    names = list(dict.fromkeys(name for outcomes in rounds for name in outcomes.direct))
    lines = ["| scenario |" + "".join(f" {o.round.title} | through the daemon |" for o in rounds)]
    lines.append("|---|" + "---|---|" * len(rounds))
    for name in names:
        cells = [results[name].cell if name in results else "" for o in rounds for results in (o.direct, o.through)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(rounds: Sequence[Outcomes]) -> str:
    return "\n".join(f"- {outcomes}" for outcomes in rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        place = options.keep or Path(name)
        rounds = run_all(Suite(), place, through=not options.direct)
    said = f"{table(rounds)}\n\n{summary(rounds)}"
    print(said)
    if options.direct:
        return 0
    if options.docs:
        replace_in_docs(BEGIN, END, said)
    for line in (worse := [line for outcomes in rounds for line in outcomes.worse()]):
        print(f"worse than directly: {line}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
