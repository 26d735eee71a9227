"""The MCP conformance suites' server scenarios, directly and through the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
import run
import server_run


@pytest.mark.timeout(600)
def test_what_passes_directly_passes_through_the_daemon(tmp_path: Path) -> None:
    rounds = server_run.run_all(run.Suite(), tmp_path)
    print(server_run.table(rounds), server_run.summary(rounds), sep="\n\n")
    assert [sum(r.ok for r in outcomes.direct.values()) for outcomes in rounds] == [32, 33, 40]
    assert not [line for outcomes in rounds for line in outcomes.worse()]
