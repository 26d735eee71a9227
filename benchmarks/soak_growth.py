"""Whether a process grows: what it holds, sampled, against what it held before.

The resident size jumps with every burst, and much of it is free memory that malloc keeps. What grows without bound
lifts the least of each minute too, so that is what is fitted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Sample = tuple[float, int]
"""Seconds, and bytes."""

WARM_SHARE = 0.25
"""Of a run, at its beginning: caches fill, histories and logs reach their bounds."""
WINDOWS = 12
"""Of each half of the rest."""


@dataclass(frozen=True, slots=True)
class Growth:
    """first, second: the median of the least of each window of either half, in bytes. per_hour: slope of the second."""

    first: float
    second: float
    per_hour: float

    def __str__(self) -> str:
        mib = [n / (1 << 20) for n in (self.first, self.second, self.per_hour)]
        return "{:.1f} MiB in the first half, {:.1f} MiB in the second, which grows by {:.1f} MiB/h".format(*mib)


def growth(samples: Sequence[Sample]) -> Growth | None:
    """Return how samples, in order, grow after the warm-up. None: there are too few."""
    if not samples:
        return None
    began, ended = samples[0][0], samples[-1][0]
    warm = [sample for sample in samples if sample[0] >= began + WARM_SHARE * (ended - began)]
    if len(warm) < 4 * WINDOWS:
        return None
    lows = _lows(warm)
    return Growth(
        statistics.median(size for _, size in lows[:WINDOWS]),
        statistics.median(size for _, size in lows[WINDOWS:]),
        3600 * slope(lows[WINDOWS:]),
    )


def _lows(samples: Sequence[Sample]) -> list[Sample]:
    """Return the least of each of `2 * WINDOWS` parts."""
    count = 2 * WINDOWS
    parts = [samples[n * len(samples) // count : (n + 1) * len(samples) // count] for n in range(count)]
    return [min(part, key=lambda sample: sample[1]) for part in parts]


def slope(samples: Sequence[Sample]) -> float:
    """Return the median slope of all pairs (Theil and Sen), in bytes per second: a few outliers change nothing."""
    return statistics.median(
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for n, sooner in enumerate(samples)
        for later in samples[n + 1 :]
        if later[0] > sooner[0]
    )
