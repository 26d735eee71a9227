"""Print every figure with its limit and its aim: `python benchmarks/run.py [--scale 0.2] [NAME...]`.

Needs the `test` extra in the interpreter's environment, and PyPI once, for the peer. Exits 1 if a limit is missed. The
samples go to benchmarks/out/figures.json. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from figure import Figure, row, save
from workbench import OUT

GROUPS = (
    "launch", "on_demand", "hang", "idle", "calls", "remote", "login", "command_line", "flood", "gateway", "projects",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)}; all without any")
    parser.add_argument("--scale", type=float, default=1.0, help="rounds and sizes; 1 is what the limits are for")
    options = parser.parse_args()
    unknown = set(options.names) - set(GROUPS)
    if unknown:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    for name in options.names or GROUPS:
        for figure in importlib.import_module(name).figures(options.scale):
            figures.append(figure)
            print(row(figure), flush=True)
    save(figures, OUT / "figures.json")
    failed = [f.name for f in figures if f.verdict == "FAIL"]
    print(f"{len(figures)} figures, {len(failed)} over their limit{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
