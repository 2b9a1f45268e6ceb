"""Killed anywhere: every message is read once, every attachment has one file, and nothing is done twice."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.email.mailboxes import Scene, mail, organize, read
from tests.support.dovecot import Dovecot, dovecot
from tests.support.kill import double_kill, random_kills, sweep, trace, zombies
from tests.support.tls import Tls

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))

Make = Callable[..., Scene]


@pytest.fixture(scope="module")
def bare(tls: Tls) -> Iterator[Dovecot]:
    """A server that says it has neither MOVE nor UIDPLUS."""
    with dovecot(tls, capability="IMAP4rev1 LITERAL+ SASL-IR NAMESPACE") as server:
        yield server


def scenes(server: Dovecot, tmp_path: Path) -> Make:
    numbers = itertools.count()

    def make(**arguments: object) -> Scene:
        directory = tmp_path / f"scene-{next(numbers)}"
        directory.mkdir()
        box = server.mailbox()
        box.put(mail("one"), mail("two", ("a.pdf", b"first")))
        box.put(mail("other", sender="else@example.com"))
        box.put(mail("kept"), folder="Done")
        return Scene(directory, box, {"search": {"from": "billing", "unseen": True}, **arguments})

    return make


def reading(make: Make, **arguments: object) -> Callable[[], Scene]:
    def scene() -> Scene:
        made = make(**arguments)
        made.arguments["save_attachments_to"] = str(made.files)
        if arguments.get("save_to"):
            made.arguments["save_to"] = str(made.directory / "mails.jsonl")
        return made

    return scene


def whole(scene: Scene) -> None:
    """Both messages once, three files, nothing else, and the mailbox as it should be."""
    assert sorted(path.read_bytes() for path in scene.files.iterdir()) == [b"first"]
    rows = read(scene)["rows"]
    if "save_to" in scene.arguments:
        rows = [json.loads(line) for line in Path(scene.arguments["save_to"]).read_text().splitlines()]
    assert [row["message_id"] for row in rows] == ["<one@test>", "<two@test>"]
    assert sorted(Path(a["path"]).read_bytes() for row in rows for a in row["attachments"]) == [b"first"]
    assert not list(scene.directory.rglob("*.part"))
    moved = scene.arguments["after"] == "move"
    assert scene.box.message_ids("Done") == ["<kept@test>", *(["<one@test>", "<two@test>"] if moved else [])]
    left = scene.box.message_ids(criteria="UNDELETED")
    assert left == (["<one@test>", "<other@test>", "<two@test>"] if not moved else ["<other@test>"])
    assert scene.box.message_ids(criteria="UNSEEN UNDELETED") == ["<other@test>"]


def test_the_failpoints(dovecot: Dovecot, tmp_path: Path) -> None:
    make = scenes(dovecot, tmp_path)
    scene = reading(make, after="mark_seen")()
    assert [point for point in trace(read, scene) if not point.startswith(("checkpoint.", "run.", "part_file."))] == [
        "email.read.before_plan",
        "email.read.after_plan",
        "email.read.before_attachment",
        "email.read.before_commit",
        "email.read.after_commit",
        "email.read.after_attachment",
        "email.mailbox.before_flag",
        "email.mailbox.after_flag",
    ]


def test_read_killed_anywhere(dovecot: Dovecot, tmp_path: Path) -> None:
    report = sweep(reading(scenes(dovecot, tmp_path), after="mark_seen"), read, whole)
    assert report.kills > 12


def test_read_and_move_killed_anywhere_without_the_extensions(bare: Dovecot, tmp_path: Path) -> None:
    """COPY, then the flag: the one step that could be done twice."""
    sweep(reading(scenes(bare, tmp_path), after="move", target_folder="Done", save_to="yes"), read, whole)


def test_read_killed_twice_and_at_random(dovecot: Dovecot, tmp_path: Path) -> None:
    make = reading(scenes(dovecot, tmp_path), after="move", target_folder="Done", if_exists="fail")
    double_kill(make, read, whole, limit=KILLS)
    random_kills(make, read, whole, count=KILLS)


def copied(scene: Scene) -> None:
    assert scene.box.message_ids("Done") == ["<kept@test>", "<one@test>", "<two@test>"]
    left = scene.box.message_ids(criteria="UNDELETED")
    assert left == (
        ["<other@test>"] if scene.arguments["operation"] == "move" else ["<one@test>", "<other@test>", "<two@test>"]
    )


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_organize_killed_anywhere(bare: Dovecot, tmp_path: Path, operation: str) -> None:
    make = scenes(bare, tmp_path)
    arguments = {"operation": operation, "target_folder": "Done"}
    report = sweep(lambda: make(**arguments), organize, copied)
    assert report.kills > 8
    double_kill(lambda: make(**arguments), organize, copied, limit=KILLS)
    random_kills(lambda: make(**arguments), organize, copied, count=KILLS)


def test_organize_killed_anywhere_with_the_extensions(dovecot: Dovecot, tmp_path: Path) -> None:
    make = scenes(dovecot, tmp_path)
    sweep(lambda: make(operation="move", target_folder="Done"), organize, copied)


def stops(point: str) -> bool:
    """Where attempts stop by default; FLOWRUNNER_KILLS=4: everywhere."""
    return KILLS > 3 or point.startswith("email.")


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_a_zombie_copies_nothing_twice(bare: Dovecot, tmp_path: Path, operation: str) -> None:
    make = scenes(bare, tmp_path)
    zombies(lambda: make(operation=operation, target_folder="Done"), organize, copied, at=stops)


def test_a_zombie_moves_and_reads_nothing_twice(dovecot: Dovecot, tmp_path: Path) -> None:
    make = scenes(dovecot, tmp_path)
    zombies(lambda: make(operation="move", target_folder="Done"), organize, copied, at=stops)
    zombies(reading(make, after="mark_seen"), read, whole, at=stops)
    zombies(reading(make, after="move", target_folder="Done", save_to="yes"), read, whole, at=stops)
