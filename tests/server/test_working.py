"""Whether a start works: what counts as work, and that only growth does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.server.working import LOOKS, SHARE, WINDOW_SECS, WorkMeter, window_secs
from moltis.transport import Effort

EVERY = WINDOW_SECS / LOOKS


def looks(*efforts: Effort) -> list[bool]:
    meter = WorkMeter(WINDOW_SECS)
    return [meter.look(n * EVERY, effort) for n, effort in enumerate(efforts, 1)]


def test_output_is_work_and_the_same_output_once_more_is_none() -> None:
    assert looks(Effort(said=5), Effort(said=5), Effort(said=6)) == [True, False, True]


def test_a_process_that_waits_for_a_processor_works_though_it_gets_none() -> None:
    assert looks(Effort(), Effort(runnable=True), Effort()) == [False, True, False]


def test_processor_time_is_added_up_over_the_window() -> None:
    spent = SHARE * WINDOW_SECS / 3
    assert looks(*(Effort(cpu_secs=spent * n) for n in range(1, 7))) == [False, False, True, False, False, True]


def test_the_little_that_a_sleeping_event_loop_uses_is_no_work_however_long_it_goes_on() -> None:
    assert not any(looks(*(Effort(cpu_secs=0.4 * SHARE * EVERY * n) for n in range(1000))))


def test_a_child_that_ends_with_its_account_is_no_work_and_hides_none() -> None:
    assert looks(Effort(cpu_secs=9.0), Effort(cpu_secs=1.0), Effort(cpu_secs=1.5)) == [True, False, True]


@pytest.mark.parametrize(("timeout", "window"), [(60.0, 5.0), (20.0, 5.0), (2.0, 0.5)])
def test_a_start_with_little_time_is_looked_at_in_a_shorter_window(timeout: float, window: float) -> None:
    assert window_secs(timeout) == window


@given(st.lists(st.floats(0, SHARE * EVERY * 0.9), min_size=1, max_size=200))
def test_no_pattern_of_use_below_the_share_ever_counts(spent: list[float]) -> None:
    used, efforts = 0.0, []
    for secs in spent:
        used += secs
        efforts.append(Effort(cpu_secs=used))
    assert not any(looks(*efforts))
