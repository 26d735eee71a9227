"""Run the client scenarios of the MCP conformance suite through the daemon, and print what came of it as Markdown.

    run.py [--only TEXT] [--jobs N] [--keep FOLDER] [--docs]

Both versions in package.json are run, installed beside this file if they are not yet (MOLTIS_TEST_CONFORMANCE names
a folder that has them); they need Node.js 22. In 0.2 a scenario runs at its default protocol revision and, where the
suite lists it for that, at 2026-07-28 too. Exit status 0: `missing` finds nothing that was promised.

--only runs the scenarios whose name contains TEXT; --keep leaves each run's output in FOLDER; --docs puts what came of
a whole run into docs/conformance.md, with its date.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

import player
from installing import conformance_suites, node_program

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "conformance.md"
OLD, NEW = "0.1.16", "0.2.0-alpha.12"
MODERN = "2026-07-28"
RUN_WITHIN = 120.0

EXCLUDED = {
    "auth/cross-app-access-complete-flow": "enterprise-managed authorization, an extension",
    "auth/enterprise-managed-authorization": "an extension",
    "auth/dpop": "DPoP, an extension",
    "auth/dpop-nonce": "DPoP, an extension",
    "auth/wif-jwt-bearer": "workload identity federation, an extension",
}
"""Scenarios of what the daemon does not do. They are not run."""

UNSCORED = "sep-2640-client-"
"""Scenarios of the skills extension: the suite asks nothing of a client that does not speak it."""

PROMISED_OF_OLD = 25
"""Of the 26 scenarios of 0.1.16."""

Verdict = Literal["ok", "failed", "excluded", "nothing asked"]


@dataclass(frozen=True)
class Job:
    """One scenario of one version of the suite, at one protocol revision: None is the scenario's own."""

    suite: str
    scenario: str
    revision: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a job. `output` is what the suite said."""

    job: Job
    verdict: Verdict
    passed: int = 0
    total: int = 0
    output: str = ""

    @property
    def cell(self) -> str:
        if self.verdict in ("excluded", "nothing asked"):
            return self.verdict
        return f"{self.passed}/{self.total} {self.verdict}"


class Suite:
    """The installed suites and the Node.js that runs them."""

    def __init__(self) -> None:
        self._folder = conformance_suites()
        self._node = node_program()
        compiled = self._folder / "node_modules" / ".cache" / "compiled"
        self.env = {**os.environ, "NODE_COMPILE_CACHE": str(compiled)}  # a quarter of what a run takes is compiling

    def script(self, version: str) -> str:
        return str(self._folder / "node_modules" / f"conformance-{version}" / "dist" / "index.js")

    def command(self, version: str, *words: str) -> list[str]:
        return [self._node, self.script(version), *words]

    def jobs(self, version: str) -> list[Job]:
        """List a version's client scenarios, once for each revision to run them at."""
        listed = subprocess.run(
            self.command(version, "list", "--client"), capture_output=True, text=True, check=True, env=self.env
        )
        found = []
        for name, revisions in re.findall(r"^\s+- (\S+) \[(.*)\]$", listed.stdout, re.MULTILINE):
            found.append(Job(version, name))
            if version == NEW and MODERN in revisions and revisions != MODERN:
                found.append(Job(version, name, MODERN))
        return found

    def runner(self, version: str, env: dict[str, str]) -> Runner:
        return Runner([self._node, str(HERE / "suite.mjs"), self.script(version)], {**self.env, **env})


class Runner:
    """A process that has read a suite, and runs one command of it after the other."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def command(self, *words: str) -> tuple[int, str]:
        """Return a command's exit status and what it said. If it hangs, it is ended after RUN_WITHIN seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        killer = threading.Timer(RUN_WITHIN, self._process.kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        if not line.startswith("{"):
            raise OSError(f"the suite ended amid {words}: {line}{self._process.stdout.read()}")
        answer = json.loads(line)
        return answer["status"], answer["said"]

    def run(self, job: Job) -> Outcome:
        """Run one scenario with the driver as the client."""
        driver = shlex.join([sys.executable, "-S", "-E", str(HERE / "driver.py")])
        words = ["client", "--command", driver, "--scenario", job.scenario]
        words += ["--spec-version", job.revision] if job.revision else []
        status, said = self.command(*words)
        counts = re.search(r"Passed: (\d+)/(\d+)", said)
        passed, total = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        verdict: Verdict = "ok" if status == 0 and passed == total > 0 else "failed"
        if job.scenario.startswith(UNSCORED) and total == 0 and status == 0:
            verdict = "nothing asked"
        return Outcome(job, verdict, passed, total, said)


def run_all(jobs: Sequence[Job], suite: Suite, at_a_time: int) -> list[Outcome]:
    """Run all, so many at a time, each of which has a process for each version."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(player.listening())
        free = {version: queue.SimpleQueue[Runner]() for version in (OLD, NEW)}

        def run(job: Job) -> Outcome:
            if job.scenario in EXCLUDED:
                return Outcome(job, "excluded")
            try:
                runner = free[job.suite].get_nowait()
            except queue.Empty:
                runner = stack.enter_context(suite.runner(job.suite, env))
            outcome = runner.run(job)
            free[job.suite].put(runner)
            return outcome

        with ThreadPoolExecutor(at_a_time) as pool:
            return list(pool.map(run, jobs))


def table(outcomes: Sequence[Outcome]) -> str:
    """Give the Markdown table: a row for each scenario, a column for each version and revision."""
    columns = [(OLD, None), (NEW, None), (NEW, MODERN)]
    cells = {(o.job.scenario, o.job.suite, o.job.revision): o.cell for o in outcomes}
    scenarios = list(dict.fromkeys(o.job.scenario for o in outcomes))
    lines = [f"| scenario | {OLD} | {NEW} | {NEW} at {MODERN} |", "|---|---|---|---|"]
    for scenario in scenarios:
        shown = [cells.get((scenario, *column), "") for column in columns]
        why = f" ({EXCLUDED[scenario]})" if scenario in EXCLUDED else ""
        lines.append(f"| {scenario}{why} | {' | '.join(shown)} |")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    lines = []
    for version in (OLD, NEW):
        own = [o for o in outcomes if o.job.suite == version]
        ok = sum(o.verdict == "ok" for o in own)
        left = ", ".join(f"{sum(o.verdict == v for o in own)} {v}" for v in ("failed", "excluded", "nothing asked"))
        lines.append(f"{version}: {ok} of {len(own)} ok, {left}")
    return "\n".join(lines)


def missing(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what of the promise is not kept: 25 of 26 of the old version, all of the new but what is excluded."""
    of_old = [o for o in outcomes if o.job.suite == OLD]
    found = [f"{NEW} {o.job.scenario} {o.job.revision or ''}" for o in outcomes if o.job.suite == NEW and is_failed(o)]
    if sum(o.verdict == "ok" for o in of_old) < min(PROMISED_OF_OLD, len(of_old)):
        found += [f"{OLD} {o.job.scenario}" for o in of_old if is_failed(o)]
    return found


def is_failed(outcome: Outcome) -> bool:
    return outcome.verdict == "failed"


def keep(outcomes: Sequence[Outcome], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for o in outcomes:
        name = "-".join(filter(None, (o.job.suite, o.job.scenario.replace("/", "_"), o.job.revision)))
        (folder / f"{name}.txt").write_text(o.output)


def replace_in_docs(begin: str, end: str, said: str) -> None:
    """Put `said`, with today's date, between two markers of docs/conformance.md.

    Raises:
        SystemExit: the markers are not there.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"docs/conformance.md lacks {begin} and {end}")
    date = datetime.now(UTC).date().isoformat()
    PAGE.write_text(f"{before}{begin}\n\nOn {date}:\n\n{said}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    suite = Suite()
    jobs = [job for version in (OLD, NEW) for job in suite.jobs(version) if options.only in job.scenario]
    outcomes = run_all(jobs, suite, options.jobs)
    if options.keep:
        keep(outcomes, options.keep)
    said = f"{table(outcomes)}\n\n{summary(outcomes)}"
    print(said)
    if options.docs and not options.only:
        replace_in_docs("<!-- conformance -->", "<!-- /conformance -->", said)
    for line in (broken := missing(outcomes)):
        print(f"not as promised: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
