"""Command line of ``flowrunner demo``.

Exit status: 0 if every check passed, 1 if a check failed or the run did not finish, 2 for wrong usage or a
missing package, 130 if interrupted.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, MissingExtra
from flowrunner_provider.core.retry import pause
from flowrunner_provider.demo.checks import evaluate
from flowrunner_provider.demo.pipeline import FinishedRun, find_dag, run_pipeline
from flowrunner_provider.demo.report import Progress, console, show
from flowrunner_provider.demo.scratch import Scratch

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_arguments", "run"]

_PACKAGES = ("rich", "psutil", "airportsdata", "aiohttp", "asyncssh", "aiosmtpd")
_INTERRUPTED = 130

PipelineRunner = Callable[..., AbstractContextManager[FinishedRun]]


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of ``flowrunner demo``."""
    parser.add_argument("--ui", action="store_true", help="keep Airflow running at the end, until Ctrl-C")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder with all logs")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="use this empty folder; implies --keep")
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=300.0,
        metavar="SECONDS",
        help="fail after this time (default: 300)",
    )
    parser.add_argument("--dag", type=Path, help=SUPPRESS)


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def run(args: Namespace, runner: PipelineRunner = run_pipeline) -> int:
    """Run the demo and stop all its processes.

    If this process is killed, its guard process stops the others within seconds.

    :param args: the options declared by :func:`add_arguments`.
    :param runner: runs the pipeline; replaced by tests.
    :returns: the exit status.
    """
    try:
        _require_packages()
        with _interruptible():
            return _run(args, runner)
    except ConfigError as error:
        sys.stderr.write(f"flowrunner demo: {error}\n")
        return 2
    except FlowRunnerError as error:
        sys.stderr.write(f"flowrunner demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("flowrunner demo: interrupted, everything is stopped\n")
        return _INTERRUPTED


def _require_packages() -> None:
    """Raise unless all packages are installed. It does not import them, because that takes seconds."""
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra("demo", "flowrunner demo")


def _run(args: Namespace, runner: PipelineRunner) -> int:
    find_dag(args.dag)
    keep = args.keep or args.scratch is not None
    scratch = _create_scratch(args.scratch)
    out = console()
    with Progress(out) as progress, runner(args, scratch, progress, keep=keep) as finished:
        checks = evaluate(finished.evidence)
        progress.close()
        show(out, finished.summary, checks)
        passed = all(check.ok for check in checks)
        if keep or not passed:
            finished.keep_files()
            out.print(f"Files and logs: {scratch.root}", soft_wrap=True)
        if args.ui:
            _wait_for_interrupt(out, finished)
        out.print("Stopping …")
    return 0 if passed else 1


def _wait_for_interrupt(out: Console, finished: FinishedRun) -> None:
    """Keep Airflow running until Ctrl-C."""
    out.print(f"Airflow is running at {finished.address()}\nCtrl-C stops it.", soft_wrap=True)
    try:
        while True:
            finished.check_alive()
            pause(0.5)
    except KeyboardInterrupt:
        return


def _create_scratch(given: Path | None) -> Scratch:
    """Create the scratch folder and its subfolders; the guard deletes a temporary one at the end."""
    if given is None:
        root = Path(tempfile.mkdtemp(prefix="flowrunner-demo-"))
    else:
        given.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = given
        if any(root.iterdir()):
            raise ConfigError(f"{root} is not empty", field="scratch", remedy="use an empty or a new folder")
    scratch = Scratch(root.resolve())
    scratch.create()
    return scratch


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
