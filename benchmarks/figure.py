"""A measured figure, its limit and its aim, and how they are printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One promise in numbers.

    value: in `unit`; "x" is a ratio of two medians taken in the same run. None: it could not be taken, and that fails.
    limit, aim: None where there is none, as for figures that only say how the others came about.
    at_least: the limit is a lower one.
    """

    name: str
    value: float | None
    unit: str = "x"
    limit: float | None = None
    aim: float | None = None
    at_least: bool = False
    detail: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def reaches(self, mark: float | None) -> bool:
        if mark is None:
            return True
        if self.value is None:
            return False
        return self.value >= mark if self.at_least else self.value <= mark

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if not self.reaches(self.limit):
            return "FAIL"
        return "pass" if self.reaches(self.aim) else "pass, aim missed"


def median_ratio(above: list[float], below: list[float]) -> float:
    """Divide round by round and give the median: what disturbs a round disturbs both of its sides."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def percentile(values: Iterable[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.4g} ms"


def row(figure: Figure) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g} {figure.unit}"

    sign = "≥" if figure.at_least else "≤"
    limit = f"{sign} {number(figure.limit)}" if figure.limit is not None else ""
    aim = f"aim {number(figure.aim)}" if figure.aim is not None else ""
    return f"{figure.name:<54} {number(figure.value):>10}  {limit:<12} {aim:<12} {figure.verdict:<17} {figure.detail}"


def save(figures: list[Figure], path: Path) -> None:
    """Write the figures with their samples and the machine they were taken on."""
    machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
    rows = [{**asdict(f), "verdict": f.verdict} for f in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "load": os.getloadavg(), "figures": rows}, indent=1) + "\n")
