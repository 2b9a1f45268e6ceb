"""``flowrunner demo``: the command line, and the exit code.

0: every far-side check passed · 1: a check failed, or the run did not come to an end · 2: something
is missing or wrong in the call · 130: interrupted.
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
from flowrunner_provider.demo.play import Performance, find_dag, perform
from flowrunner_provider.demo.report import Progress, console, show
from flowrunner_provider.demo.scratch import Scratch

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["add_arguments", "run"]

_PACKAGES = ("rich", "psutil", "airportsdata", "aiohttp", "asyncssh", "aiosmtpd")
_INTERRUPTED = 130

Performer = Callable[..., AbstractContextManager[Performance]]


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


def run(args: Namespace, performer: Performer = perform) -> int:
    """Run the demo; when it returns no process of it is left.

    If this process is killed instead, its guard process stops the others within seconds.

    :param args: what :func:`add_arguments` declared.
    :param performer: what produces the evidence; tests put their own here.
    :returns: the exit code, see the module.
    """
    try:
        _require_packages()
        with _interruptible():
            return _run(args, performer)
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
    """Look for the packages without the seconds that importing them takes."""
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra("demo", "flowrunner demo")


def _run(args: Namespace, performer: Performer) -> int:
    find_dag(args.dag)
    keep = args.keep or args.scratch is not None
    scratch = _scratch(args.scratch)
    out = console()
    with Progress(out) as progress, performer(args, scratch, progress, keep=keep) as performance:
        checks = evaluate(performance.evidence)
        progress.close()
        show(out, performance.story, checks)
        passed = all(check.ok for check in checks)
        if keep or not passed:
            performance.keep_files()
            out.print(f"Files and logs: {scratch.root}", soft_wrap=True)
        if args.ui:
            _stay(out, performance)
        out.print("Stopping …")
    return 0 if passed else 1


def _stay(out: Console, performance: Performance) -> None:
    """Wait for Ctrl-C."""
    out.print(f"Airflow stays up at {performance.address()}\nCtrl-C stops it.", soft_wrap=True)
    try:
        while True:
            performance.check_alive()
            pause(0.5)
    except KeyboardInterrupt:
        return


def _scratch(given: Path | None) -> Scratch:
    """The scratch folder with its sub-folders; a temporary one is deleted by the guard at the end."""
    if given is None:
        root = Path(tempfile.mkdtemp(prefix="flowrunner-demo-"))
    else:
        given.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = given
        if any(root.iterdir()):
            raise ConfigError(f"{root} is not empty", field="scratch", remedy="name an empty or a new folder")
    scratch = Scratch(root.resolve())
    scratch.create()
    return scratch


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo the way Ctrl-C does."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, signal.default_int_handler) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
