"""Killed at every failpoint, and anywhere: the retry writes the same bytes and leaves nothing beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.context import execute, make_context
from tests.support.kill import double_kill, random_kills, sweep, zombies

pytestmark = pytest.mark.faults

ROWS = 6_000
KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "5"))
RECORDS = [{"id": number, "name": f"náme, {number}" * 6, "nested": {"a": [number]}} for number in range(ROWS)]


@dataclass(frozen=True)
class Scene:
    """A source, and an older file under the final name.

    :param kind: which action.
    """

    root: Path
    kind: str

    @property
    def target(self) -> Path:
        return (
            self.root
            / "out"
            / {"csv": "o.csv", "gzip": "o.csv.gz", "parquet": "o.parquet", "json": "o.jsonl"}[self.kind]
        )

    def operator(self) -> Any:
        from flowrunner_provider.data.operators import ReadJsonOperator, WriteColumnarOperator, WriteCsvOperator

        source = str(self.root / "source.jsonl")
        if self.kind == "json":
            return ReadJsonOperator(task_id="task", path=source, flatten=1, save_to=str(self.target))
        cls = WriteColumnarOperator if self.kind == "parquet" else WriteCsvOperator
        return cls(task_id="task", source=source, path=str(self.target))


def work(scene: Scene) -> Any:
    operator = scene.operator()
    return execute(operator, make_context(operator, state=scene.root / "state"))


def scenes(root: Path, kind: str) -> Callable[[], Scene]:
    numbers = count()
    content = "".join(json.dumps(record) + "\n" for record in RECORDS)

    def make() -> Scene:
        scene = Scene(root / f"scene-{next(numbers)}", kind)
        scene.target.parent.mkdir(parents=True)
        (scene.root / "source.jsonl").write_text(content)
        return scene

    return make


@dataclass
class Check:
    """The target is byte for byte what the first, undisturbed run wrote, and alone in its folder."""

    expected: bytes = b""

    def __call__(self, scene: Scene) -> None:
        content = scene.target.read_bytes()
        self.expected = self.expected or content
        assert content == self.expected
        assert [path.name for path in scene.target.parent.iterdir()] == [scene.target.name]


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet", "json"])
def test_killed_at_every_failpoint(tmp_path: Path, kind: str) -> None:
    report = sweep(scenes(tmp_path, kind), work, Check())
    assert report.kills == report.scenarios >= 8


def test_killed_twice(tmp_path: Path) -> None:
    assert double_kill(scenes(tmp_path, "csv"), work, Check(), limit=KILLS).kills >= KILLS


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_killed_anywhere(tmp_path: Path, kind: str) -> None:
    random_kills(scenes(tmp_path, kind), work, Check(), count=KILLS)


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet", "json"])
def test_a_zombie_does_no_harm(tmp_path: Path, kind: str) -> None:
    """Also one that begins its part after the other attempt has finished. One that cannot find its part any more says
    so: the worker has lost it anyway."""

    def at(point: str) -> bool:
        """By default everywhere for one kind only; FLOWRUNNER_KILLS=6: for all."""
        return KILLS > 5 or kind == "csv" or point.endswith(("before_begin", "before_commit", "before_rename"))

    zombies(scenes(tmp_path, kind), work, Check(), at=at, defeats=("Fenced", "IntegrityError", "NotFound"))
