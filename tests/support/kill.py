"""The kill harness: run a target in a child process, kill it anywhere, run it again, look at the far side.

::

    def copy(scene):                       # a module-level function: the child finds it by name
        execute(files_copy_operator(scene), make_context(state=scene.state))

    def test_copy_survives_every_kill(tmp_path):
        report = sweep(lambda: Scene(tmp_path), copy, check=the_target_is_whole)

A *scene* is what one scenario plays in: picklable, made fresh for each, handed to ``target`` in the
child and to ``check`` in the test. ``check`` raises ``AssertionError``; the sweeps go on to the end and
raise :class:`Broken` with all failures, each with the place of its kill.

Children are forked from a warm fork server, so that an attempt costs milliseconds. They get the
environment of the test as it is at that moment, and ``FLOWRUNNER_TRY_NUMBER`` from 1.
"""

from __future__ import annotations

import faulthandler
import glob
import itertools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from flowrunner_provider.core import errors, failpoints

__all__ = [
    "Attempt",
    "Broken",
    "Outcome",
    "Report",
    "attempt",
    "double_kill",
    "kill_at",
    "overlaps",
    "random_kills",
    "stop_fork_server",
    "sweep",
    "trace",
    "zombies",
]

Scene = TypeVar("Scene")
Rule = Mapping[str, Any]

TRY_NUMBER = "FLOWRUNNER_TRY_NUMBER"
_TOO_LONG = "timed out"
PACKAGE = Path(failpoints.__file__).parents[1]
# Only what starts no thread when it is imported (pyarrow does): a fork copies locks, not threads.
PRELOAD = [
    "pytest",
    "airflow.sdk.bases.operator",
    "airflow.sdk.execution_time.context",
    "aiohttp",
    "aiosmtplib",
    "asyncssh",
    "imapclient",
    "azure.storage.blob.aio",
    "psycopg",
    "pymysql",
    "sqlglot",
    "trustme",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "obstore.store",
    *(
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in ("__init__", "__main__") and path.parent.name not in ("demo", "migrations")
    ),
    "tests.support.context",
    "tests.support.kill",
]
_RETRIED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.TransientError | errors.OutcomeUnknown)
}
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOAD)


def stop_fork_server() -> None:
    """End the fork server, if there is one, and wait for its end; the next attempt starts another one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined] - there is no public way


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    :param exitcode: as ``multiprocessing`` tells it; negative for a signal.
    :param signal: the signal that ended it, or None.
    :param error: the traceback of what the target raised, or why there is no result; None on success.
    :param error_type: the name of the exception's class; None on success and after a kill.
    :param result: what the target returned.
    :param seconds: how long the target ran; None after a kill.
    :param output: what the child wrote to stdout and stderr.
    """

    exitcode: int | None
    signal: int | None
    error: str | None
    error_type: str | None = None
    result: Any = None
    seconds: float | None = None
    output: str = ""

    @property
    def ok(self) -> bool:
        """The target returned."""
        return self.error is None

    @property
    def killed(self) -> bool:
        """SIGKILL ended it, and not since it took too long."""
        return self.signal == signal.SIGKILL and not (self.error or "").startswith(_TOO_LONG)


def kill_at(point: str, hit: int = 1) -> dict[str, Any]:
    """The rule that kills at the ``hit``-th passage of exactly this failpoint."""
    return {"point": glob.escape(point), "action": "kill", "hit": hit}


class Attempt:
    """One run of ``target(*args)`` in a child of its own process group, running from construction on.

    Two at a time make a zombie and its retry; :meth:`freeze` and :meth:`thaw` stop and continue one.

    :param rules: failpoint rules for the child.
    :param try_number: what ``make_context`` in the child takes for the try number.
    """

    def __init__(self, target: Callable[..., Any], *args: Any, rules: Iterable[Rule] = (), try_number: int = 1) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="flowrunner-attempt-"))
        rules = list(rules)
        environment = {**os.environ, TRY_NUMBER: str(try_number), failpoints.ENVIRONMENT: json.dumps(rules)}
        if not rules:
            del environment[failpoints.ENVIRONMENT]
        self._started, started = _CONTEXT.Pipe(duplex=False)
        call = pickle.dumps((target, args))
        self._process = _CONTEXT.Process(target=_child, args=(call, environment, self._home, started))
        self._process.start()
        started.close()

    @property
    def pid(self) -> int:
        """The child's pid."""
        assert self._process.pid is not None
        return self._process.pid

    def started(self, timeout: float = 30.0) -> None:
        """Wait until the target is about to be called (or the child has died)."""
        self._started.poll(timeout)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the child if it still runs."""
        if self._process.is_alive():
            with suppress(ProcessLookupError):  # it ended in between
                os.kill(self.pid, sig)

    def freeze(self) -> None:
        """SIGSTOP: the worker that the scheduler takes for dead."""
        self.kill(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: ... and that was not."""
        self.kill(signal.SIGCONT)

    def stopped(self, timeout: float = 30.0) -> bool:
        """Wait until it has stopped itself at a failpoint; False when it has ended instead."""
        limit = time.monotonic() + timeout
        while time.monotonic() < limit and self._process.is_alive():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended in between
                if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    return True
            time.sleep(0.002)
        return False

    def join(self, seconds: float) -> bool:
        """Wait so long at most; whether it has ended."""
        self._process.join(seconds)
        return not self._process.is_alive()

    def wait(self, timeout: float = 60.0) -> Outcome:
        """How it ended; after ``timeout`` seconds it is killed and the stacks are in ``output``."""
        timed_out = not self.join(timeout)
        if timed_out:
            self.kill(signal.SIGUSR1)  # faulthandler writes the stacks of all threads
            self.join(0.5)
            self.kill()
        self._process.join()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what the child has started itself
        try:
            return self._outcome(f"{_TOO_LONG} after {timeout:g} s" if timed_out else None)
        finally:
            self._started.close()
            shutil.rmtree(self._home, ignore_errors=True)

    def _outcome(self, why: str | None) -> Outcome:
        code = self._process.exitcode
        number = -code if code is not None and code < 0 else None
        log = self._home / "output"
        output = log.read_text(errors="replace") if log.exists() else ""
        result = self._home / "result"
        if why is None and number is None and result.exists():
            return Outcome(code, None, output=output, **pickle.loads(result.read_bytes()))
        why = why or (f"killed by {signal.Signals(number).name}" if number else f"ended with code {code}, no result")
        return Outcome(code, number, why, output=output)


def _child(call: bytes, environment: dict[str, str], home: Path, started: Connection) -> None:
    """The child: take the environment, run, leave the result as a file that appears whole or not at all."""
    os.setpgid(0, 0)
    log = os.open(home / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR1, file=2)
    os.environ.clear()
    os.environ.update(environment)
    began = time.monotonic()
    try:
        from tests.support import guard

        guard.install()
        target, args = pickle.loads(call)
        failpoints.reload()
        started.send_bytes(b"go")
        began = time.monotonic()
        report = {"result": target(*args), "error": None}
        pickle.dumps(report)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
        report = {"error": traceback.format_exc(), "error_type": type(error).__name__}
    report["seconds"] = time.monotonic() - began
    partial = home / "partial"
    partial.write_bytes(pickle.dumps(report))
    partial.rename(home / "result")


def attempt(
    target: Callable[..., Any],
    *args: Any,
    rules: Iterable[Rule] = (),
    timeout: float = 60.0,
    try_number: int = 1,
    kill_after: float | None = None,
) -> Outcome:
    """Run ``target(*args)`` once in a child and tell how it ended.

    :param rules: failpoint rules, e.g. ``[kill_at("files.copy.before_rename")]``.
    :param kill_after: SIGKILL so many seconds after the target began, if it still runs.
    """
    running = Attempt(target, *args, rules=rules, try_number=try_number)
    if kill_after is not None:
        running.started(timeout)
        running.join(kill_after)
        running.kill()
    return running.wait(timeout)


def trace(target: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[str]:
    """The failpoints that one clean run passes, in order; a run that fails is an ``AssertionError``."""
    return _clean_run(target, *args, timeout=timeout)[0]


def _clean_run(target: Callable[..., Any], *args: Any, timeout: float) -> tuple[list[str], float]:
    with tempfile.TemporaryDirectory(prefix="flowrunner-trace-") as directory:
        to = Path(directory) / "trace"
        to.touch()
        outcome = attempt(target, *args, rules=[{"point": "*", "action": "trace", "to": str(to)}], timeout=timeout)
        assert outcome.ok, f"the clean run failed: {outcome.error}\n{outcome.output}"
        return to.read_text().splitlines(), outcome.seconds or 0.0


@dataclass
class Report:
    """What a sweep did: how many scenarios and attempts, how many kills took place, what failed."""

    scenarios: int = 0
    attempts: int = 0
    kills: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.scenarios} scenarios, {self.attempts} attempts, {self.kills} kills"
        return "\n".join([f"{head}, {len(self.failures)} failures", *self.failures])


class Broken(AssertionError):
    """At least one scenario ended in a state that the promise does not allow; ``report`` has all of them."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def _returned(outcome: Outcome) -> bool:
    return outcome.ok


@dataclass
class _Play:
    """Plays scenarios: kills one after another, then retries to the end, then the check."""

    make_scene: Callable[[], Any]
    target: Callable[[Any], Any]
    check: Callable[[Any], None]
    retries: int
    timeout: float
    done: Callable[[Outcome], bool]
    defeats: Container[str] = ()
    report: Report = field(default_factory=Report)

    def attempt(self, scene: Any, try_number: int, **how: Any) -> Outcome:
        outcome = attempt(self.target, scene, try_number=try_number, timeout=self.timeout, **how)
        self.report.attempts += 1
        self.report.kills += outcome.killed
        return outcome

    def scenario(self, name: str, kills: Sequence[Mapping[str, Any]], *, must_kill: bool) -> None:
        """One fresh scene; ``kills`` are the arguments of the attempts that come before the clean ones."""
        self.report.scenarios += 1
        scene = self.make_scene()
        outcome: Outcome | None = None
        for number, how in enumerate(kills, 1):
            outcome = self.attempt(scene, number, **how)
            if must_kill and not outcome.killed:
                return self._failed(name, "the failpoint was not reached; is the target deterministic?", outcome)
            if self.done(outcome):
                break
        return self.finish(name, scene, outcome, len(kills) + 1)

    def zombie(self, name: str, rule: Rule, patience: float) -> None:
        """An attempt that stops at ``rule``; the next one begins, works to its end if it can, and the first goes on."""
        scene = self.make_scene()
        first = self.stopped(name, scene, rule)
        if first is None:
            return
        second = Attempt(self.target, scene, try_number=2)
        second.join(patience)  # it may wait for what the first holds: a lock of the database, say
        first.thaw()
        ended, outcome = first.wait(self.timeout), second.wait(self.timeout)
        self.outlived(name, scene, ended, outcome)

    def overlap(self, name: str, rules: tuple[Rule, Rule], midway: Callable[[Any], None]) -> None:
        """Both attempts stop; the first goes on to its end, ``midway`` looks, and the second goes on to its end."""
        scene = self.make_scene()
        first = self.stopped(name, scene, rules[0])
        if first is None:
            return
        second = Attempt(self.target, scene, rules=[rules[1]], try_number=2)
        second.stopped(self.timeout)
        first.thaw()
        ended = first.wait(self.timeout)
        self.judge(name, lambda: midway(scene), ended)
        second.thaw()
        self.outlived(name, scene, ended, second.wait(self.timeout))

    def stopped(self, name: str, scene: Any, rule: Rule) -> Attempt | None:
        self.report.scenarios += 1
        self.report.attempts += 2
        first = Attempt(self.target, scene, rules=[rule])
        if first.stopped(self.timeout):
            return first
        self._failed(name, "the failpoint was not reached; is the target deterministic?", first.wait())
        return None

    def outlived(self, name: str, scene: Any, ended: Outcome, outcome: Outcome) -> None:
        """The zombie has ended, and so has the attempt that has taken over: that one must not suffer from it."""
        if not (self.done(ended) or ended.error_type in self.defeats):
            return self._failed(name, "the zombie ended otherwise than fenced", ended)
        if not self.done(outcome) and outcome.error_type not in _RETRIED:
            return self._failed(name, "the attempt that has taken over failed for good", outcome)
        return self.finish(name, scene, outcome, 3)

    def finish(self, name: str, scene: Any, outcome: Outcome | None, number: int) -> None:
        """Clean attempts until one is done, then the check."""
        for again in range(number, number + self.retries):
            if outcome is not None and self.done(outcome):
                break
            outcome = self.attempt(scene, again)
        if outcome is None or not self.done(outcome):
            self._failed(name, f"no success after {self.retries} retries", outcome)
        else:
            self.judge(name, lambda: self.check(scene), outcome)

    def judge(self, name: str, look: Callable[[], None], outcome: Outcome) -> None:
        try:
            look()
        except Exception as error:  # noqa: BLE001 - collected, raised together at the end
            self._failed(name, "".join(traceback.format_exception_only(error)).strip(), outcome)

    def _failed(self, name: str, what: str, outcome: Outcome | None) -> None:
        detail = f"\n{outcome.error}\n{outcome.output[-2000:]}".rstrip() if outcome and outcome.error else ""
        self.report.failures.append(f"- {name}: {what}{detail}".replace("\n", "\n    "))

    def clean(self) -> tuple[list[str], float]:
        """The trace and the duration of a run without kills, whose end state must be right, too."""
        self.report.attempts += 1
        scene = self.make_scene()
        passed = _clean_run(self.target, scene, timeout=self.timeout)
        self.check(scene)
        return passed

    def result(self) -> Report:
        if self.report.failures:
            raise Broken(self.report)
        return self.report


def _numbered(points: Iterable[str]) -> list[tuple[str, int]]:
    """Each passage with its number among those of the same name: what a rule's ``hit`` counts."""
    seen: dict[str, int] = {}
    passages = []
    for point in points:
        seen[point] = seen.get(point, 0) + 1
        passages.append((point, seen[point]))
    return passages


def sweep(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    retries: int = 3,
    timeout: float = 60.0,
    done: Callable[[Outcome], bool] = _returned,
    at: Callable[[str], bool] = lambda point: True,
) -> Report:
    """Kill at every passage of every failpoint, retry, check: exhaustive for what the code has marked.

    :param retries: how many clean attempts may follow the kill.
    :param at: of which failpoints; by default all.
    :param done: which outcome ends the retries; by default a return. A target that may rightly stop
        with an error says so, e.g. ``lambda o: o.ok or o.error_type == "OutcomeUnknown"``.
    """
    play = _Play(make_scene, target, check, retries, timeout, done)
    points, _ = play.clean()
    assert points, "the target passes no failpoint: there is nothing to sweep"
    for point, hit in _numbered(filter(at, points)):
        play.scenario(f"killed at {point} #{hit}", [{"rules": [kill_at(point, hit)]}], must_kill=True)
    return play.result()


def double_kill(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    limit: int | None = None,
    seed: int = 0,
    retries: int = 3,
    timeout: float = 60.0,
    done: Callable[[Outcome], bool] = _returned,
) -> Report:
    """Kill at every passage, and the retry at its n-th failpoint for every n; then retry and check.

    :param limit: try only so many pairs, drawn with ``seed``; None: all of them.
    """
    play = _Play(make_scene, target, check, retries, timeout, done)
    points, _ = play.clean()
    assert points, "the target passes no failpoint: there is nothing to kill at"
    pairs = list(itertools.product(_numbered(points), range(1, len(points) + 1)))
    if limit is not None and limit < len(pairs):
        pairs = random.Random(seed).sample(pairs, limit)
    for (point, hit), second in pairs:
        again = {"rules": [{"point": "*", "action": "kill", "hit": second}]}
        name = f"killed at {point} #{hit}, the retry at its failpoint {second}"
        play.scenario(name, [{"rules": [kill_at(point, hit)]}, again], must_kill=False)
    return play.result()


def zombies(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    retries: int = 3,
    timeout: float = 60.0,
    patience: float = 5.0,
    done: Callable[[Outcome], bool] = _returned,
    at: Callable[[str], bool] = lambda point: True,
    defeats: Container[str] = ("Fenced",),
) -> Report:
    """Stop an attempt at every passage of every failpoint, let the next one work, wake the first, check.

    :param patience: seconds after which the first is woken even when the second has not ended.
    :param at: at which failpoints; by default all.
    :param defeats: the errors with which the first may end, beside what is ``done``.
    """
    play = _Play(make_scene, target, check, retries, timeout, done, defeats)
    points, _ = play.clean()
    assert points, "the target passes no failpoint: there is nowhere to stop"
    for point, hit in _numbered(filter(at, points)):
        play.zombie(f"stopped at {point} #{hit}", kill_at(point, hit) | {"action": "stop"}, patience)
    return play.result()


def overlaps(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    midway: Callable[[Scene], None],
    limit: int | None = None,
    seed: int = 0,
    retries: int = 3,
    timeout: float = 60.0,
    done: Callable[[Outcome], bool] = _returned,
    at: Callable[[str], bool] = lambda point: True,
    defeats: Container[str] = ("Fenced",),
) -> Report:
    """Stop an attempt at every passage, and the next one at its n-th failpoint for every n; let the first go on to
    its end while the second stands there, and look; then let the second go on to its end, and check.

    :param midway: what must be true while one has ended and the other one is in the middle.
    :param at: at which failpoints the first stops; by default all. The second stops at all.
    :param limit: try only so many pairs, drawn with ``seed``; None: all of them.
    """
    play = _Play(make_scene, target, check, retries, timeout, done, defeats)
    points, _ = play.clean()
    passages = _numbered(points)
    assert passages, "the target passes no failpoint: there is nowhere to stop"
    firsts = [(point, hit) for point, hit in passages if at(point)]
    pairs = list(itertools.product(firsts, range(1, len(points) + 1)))
    if limit is not None and limit < len(pairs):
        pairs = random.Random(seed).sample(pairs, limit)
    for (point, hit), second in pairs:
        rules = kill_at(point, hit) | {"action": "stop"}, {"point": "*", "action": "stop", "hit": second}
        play.overlap(f"stopped at {point} #{hit}, the next one at its failpoint {second}", rules, midway)
    return play.result()


def random_kills(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    count: int,
    seed: int = 0,
    retries: int = 3,
    timeout: float = 60.0,
    done: Callable[[Outcome], bool] = _returned,
) -> Report:
    """Kill from outside, ``count`` times, each after a random part of the duration of a clean run.

    ``report.kills`` tells how many came in time; an attempt that was faster is checked like any other.
    """
    play = _Play(make_scene, target, check, retries, timeout, done)
    _, seconds = play.clean()
    draw = random.Random(seed)
    for _ in range(count):
        delay = draw.uniform(0.0, seconds)
        play.scenario(f"killed after {delay * 1000:.1f} ms", [{"kill_after": delay}], must_kill=False)
    return play.result()
