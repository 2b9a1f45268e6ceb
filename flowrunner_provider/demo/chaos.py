"""The planned kills, as failpoint rules for the run and as a list of events afterwards.

Each rule has a marker file, created immediately before the task process sends itself SIGKILL. The marker makes every
kill happen exactly once over all attempts, and is the evidence for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["PLAN", "Fired", "Kill", "fired", "rules"]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One planned SIGKILL.

    :param step: the task to kill, as named in the table.
    :param point: shell-style pattern of the failpoint's name.
    :param hit: kill at the n-th visit by one process, from 1.
    :param description: the state of the server at that moment.
    """

    step: str
    point: str
    hit: int = 1
    description: str


PLAN: tuple[Kill, ...] = (
    Kill(step="fetch", point="http.paginate.after_page", hit=20, description="after 20 of the API's pages"),
    Kill(step="load", point="sql.load.before_commit", description="all rows written, not committed"),
    Kill(step="load", point="sql.load.after_commit", description="rows committed, Airflow not told"),
    Kill(step="report", point="effect.email.send.after_confirm", description="mail sent, Airflow not told"),
    Kill(step="archive", point="sftp.before_rename", description="file uploaded, not yet renamed"),
)


@dataclass(frozen=True)
class Fired:
    """A kill that happened.

    :param point: the failpoint where the process was killed.
    :param at: modification time of the marker.
    """

    kill: Kill
    point: str
    at: datetime


def _marker(folder: Path, number: int, kill: Kill) -> Path:
    return folder / f"{number:02d}-{kill.step}.json"


def rules(plan: Sequence[Kill], folder: Path) -> str:
    """Return the value of ``FLOWRUNNER_FAILPOINTS`` for ``plan``.

    :param folder: an existing folder for the markers.
    """
    return json.dumps(
        [
            {
                "point": kill.point,
                "action": "kill",
                "hit": kill.hit,
                "once": str(_marker(folder, number, kill)),
            }
            for number, kill in enumerate(plan, 1)
        ]
    )


def fired(plan: Sequence[Kill], folder: Path) -> list[Fired]:
    """Return the kills of ``plan`` that have happened so far, oldest first."""
    found = []
    for number, kill in enumerate(plan, 1):
        marker = _marker(folder, number, kill)
        if not marker.exists():
            continue
        try:
            point = str(json.loads(marker.read_text(encoding="utf-8"))["point"])
        except ValueError:  # created and not yet written
            point = kill.point
        found.append(Fired(kill, point, datetime.fromtimestamp(marker.stat().st_mtime, UTC)))
    return sorted(found, key=lambda event: event.at)
