"""The command: see the package's docstring."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.harness import Workload, compare, measure

NAMES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "__main__", "delay", "harness")
)


def workload(name: str) -> Workload:
    """The workload ``module``, or one of several of a module: ``module.workload``."""
    module, _, one = name.partition(".")
    found = importlib.import_module(f"tests.benchmarks.{module}")
    return found.WORKLOADS[one] if one else found.WORKLOAD


def expanded(names: list[str]) -> list[str]:
    """``names`` with each module of several workloads replaced by these."""
    every = []
    for name in names:
        several = [] if "." in name else getattr(importlib.import_module(f"tests.benchmarks.{name}"), "WORKLOADS", [])
        every += [f"{name}.{one}" for one in several] or [name]
    return every


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, contender = arguments.one
        figures = measure(workload(name).contenders[contender], json.load(sys.stdin))
        sys.stdout.write("\n" + json.dumps(figures) + "\n")
        return 0
    for name in expanded(arguments.workloads or NAMES):
        sys.stdout.write(compare(name, workload(name), arguments.runs) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
