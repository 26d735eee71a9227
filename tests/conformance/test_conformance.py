"""The MCP conformance suite's client scenarios, through the daemon."""

from __future__ import annotations

import pytest
import run


@pytest.mark.timeout(900)
def test_the_conformance_suites_pass_through_the_daemon() -> None:
    suite = run.Suite()
    jobs = [job for version in (run.OLD, run.NEW) for job in suite.jobs(version)]
    assert sum(job.suite == run.OLD for job in jobs) == 26
    assert sum(job.suite == run.NEW for job in jobs) > 44
    outcomes = run.run_all(jobs, suite, 2)
    print(run.table(outcomes), run.summary(outcomes), sep="\n\n")
    failures = [f"{o.job}\n{o.output}" for o in outcomes if run.is_failed(o)]
    assert not run.missing(outcomes), "\n\n".join(failures)
