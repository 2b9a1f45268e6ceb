"""Runs contenders in turn and prints medians, paired ratios and peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Workload", "compare", "measure"]

ROOT = Path(__file__).parent.parent.parent
Contender = Callable[[dict[str, Any]], Iterator[None]]


@contextlib.contextmanager
def _nothing() -> Iterator[dict[str, Any]]:
    yield {}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One piece of work and everybody who can do it.

    :param title: what is done, with its size.
    :param contenders: name -> generator function; what comes before its ``yield``, and after a second one, is
        not timed. It gets what the scene yields, and raises if the work was not done.
    :param reference: the contender that the ratios refer to.
    :param scene: starts servers and makes data, once for all runs; yields JSON.
    """

    title: str
    contenders: Mapping[str, Contender]
    reference: str
    scene: Callable[[], AbstractContextManager[dict[str, Any]]] = _nothing


def measure(contender: Contender, scene: dict[str, Any]) -> dict[str, float]:
    """Run one contender in this process: seconds, CPU seconds and the growth of peak memory in MB."""
    steps = contender(scene)
    next(steps)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before, cpu, began = _peak_mb(), _cpu(), time.perf_counter()
    with contextlib.suppress(StopIteration):
        next(steps)
    seconds = time.perf_counter() - began
    figures = {"seconds": seconds, "cpu": _cpu() - cpu, "peak_mb": _peak_mb(), "start_mb": before}
    for _ in steps:
        pass
    return figures


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def compare(module: str, workload: Workload, runs: int) -> str:
    """Run all contenders ``runs`` times in turn; a Markdown table."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in workload.contenders}
    with workload.scene() as scene:
        for _ in range(runs):
            for name in workload.contenders:
                taken[name].append(_in_a_process(module, name, scene))
    return _table(workload, taken)


def _in_a_process(module: str, name: str, scene: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks", "--one", module, name]
    unproxied = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        command, input=json.dumps(scene), env=unproxied, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": (done.stderr or done.stdout).strip().splitlines()[-1][:100]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _table(workload: Workload, taken: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"### {workload.title}",
        "",
        f"| contender | median s | x {workload.reference} (paired) | range | cpu s | memory above start MB |",
        "|---|---|---|---|---|---|",
    ]
    reference = taken[workload.reference]
    for name, runs in taken.items():
        broken = [run["error"] for run in runs if "error" in run]
        if broken:
            lines.append(f"| {name} | failed: {broken[0]} | | | | |")
            continue
        seconds = [run["seconds"] for run in runs]
        pairs = [run["seconds"] / other["seconds"] for run, other in zip(runs, reference, strict=True)]
        growth = statistics.median(run["peak_mb"] - run["start_mb"] for run in runs)
        lines.append(
            f"| {name} | {statistics.median(seconds):.3f} | {statistics.median(pairs):.2f} "
            f"| {min(seconds):.3f}-{max(seconds):.3f} | {statistics.median(run['cpu'] for run in runs):.2f} "
            f"| {growth:.0f} |"
        )
    return "\n".join(lines) + "\n"
