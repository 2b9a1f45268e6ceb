"""Named places at which tests and the demo can kill the process or inject an error.

Production code marks each place with ``failpoint("files.copy.before_rename")``, which costs one attribute look-up if
the environment variable is not set. The variable contains a JSON list of rules::

    FLOWRUNNER_FAILPOINTS='[{"point": "files.copy.*", "action": "kill", "hit": 2, "once": "/tmp/mark"}]'

``point``   shell-style pattern of names.
``action``  ``kill``: SIGKILL to this process · ``term``: SIGTERM · ``stop``: SIGSTOP, like a hanging worker ·
            ``exit``: ``os._exit(70)`` · ``trace``: append the name to the file ``to`` · ``error``: raise
            ``ConnectionLost``.
``hit``     act at the n-th match only (from 1); absent: at every match.
``once``    a file; the rule acts only if it can create that file, i.e. once over any number of processes. The
            name of the point and the process id are written to it.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConnectionLost

__all__ = ["ENVIRONMENT", "failpoint", "reload"]

ENVIRONMENT = "FLOWRUNNER_FAILPOINTS"
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}


def _claim(marker: str | None, name: str) -> bool:
    if marker is None:
        return True
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    os.write(descriptor, json.dumps({"point": name, "pid": os.getpid()}).encode())
    os.close(descriptor)
    return True


class _Rule:
    def __init__(self, rule: dict[str, Any]) -> None:
        self.pattern: str = rule["point"]
        self.action: str = rule["action"]
        self.hit: int | None = rule.get("hit")
        self.once: str | None = rule.get("once")
        self.to: str = rule.get("to", "")
        self.seen = 0

    def visit(self, name: str) -> None:
        if not fnmatch.fnmatchcase(name, self.pattern):
            return
        self.seen += 1
        if (self.hit is not None and self.seen != self.hit) or not _claim(self.once, name):
            return
        if self.action in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[self.action])
        elif self.action == "exit":
            os._exit(70)
        elif self.action == "error":
            raise ConnectionLost(f"failpoint {name}")
        elif self.action == "trace":
            with Path(self.to).open("a", encoding="utf-8") as trace:
                trace.write(name + "\n")


def _nothing(name: str) -> None:
    """No rule is set."""


def _visitor(text: str | None) -> Callable[[str], None]:
    if not text:
        return _nothing
    rules = [_Rule(rule) for rule in json.loads(text)]

    def visit(name: str) -> None:
        for rule in rules:
            rule.visit(name)

    return visit


_visit = _visitor(os.environ.get(ENVIRONMENT))


def failpoint(name: str) -> None:
    """Mark a place; does nothing unless a rule of the environment matches ``name``."""
    _visit(name)


def reload() -> None:
    """Read the environment again, after a forked test process has set its rules."""
    global _visit
    _visit = _visitor(os.environ.get(ENVIRONMENT))
