"""Mail is told to end (SIGTERM): what is on the wire may finish, and nobody is left in doubt who need not be."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.email.support import BatchScene, Scene, connect, people, send, send_batch
from tests.support.sigterm import ended_at
from tests.support.smtp_sink import SmtpSink

pytestmark = pytest.mark.faults

ROWS = 40


@pytest.fixture
def scenes(tmp_path: Path, smtp_sink: SmtpSink) -> Callable[..., BatchScene]:
    connect(smtp_sink)
    numbers = itertools.count()

    def make(**arguments: Any) -> BatchScene:
        directory = tmp_path / f"scene-{next(numbers)}"
        directory.mkdir()
        return BatchScene(directory, smtp_sink.directory, people(ROWS), {"window": 8, "concurrency": 4, **arguments})

    return make


def everybody_has_one(scene: BatchScene) -> None:
    copies = Counter(mail.message["Message-ID"] for mail in scene.mails())
    assert len(copies) == ROWS
    assert set(copies.values()) == {1}
    assert not list(scene.directory.rglob("*.part*"))


def nobody_has_two(scene: BatchScene) -> None:
    copies = Counter(mail.message["Message-ID"] for mail in scene.mails())
    assert set(copies.values()) <= {1}
    assert len(copies) >= ROWS - 4


def test_a_batch_that_may_finish_its_mails(scenes: Callable[..., BatchScene]) -> None:
    ended = ended_at(scenes, send_batch, everybody_has_one, finish=2.0, places=5)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


def test_a_batch_that_may_not(scenes: Callable[..., BatchScene]) -> None:
    ended_at(lambda: scenes(on_unknown="skip"), send_batch, nobody_has_two, places=5)


def test_one_mail_is_sent(tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)
    numbers = itertools.count()

    def scene() -> Scene:
        return Scene(tmp_path / f"scene-{next(numbers)}", smtp_sink.directory)

    def once(scene: Scene) -> None:
        assert len(scene.mails()) == 1

    ended_at(scene, send, once, finish=2.0, places=8)
