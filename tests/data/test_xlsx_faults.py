"""Workbooks on a full disk, and written by two attempts at once: the file under the final name is always complete."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import openpyxl
import pytest

from flowrunner_provider.core.errors import NotFound, PermanentError
from flowrunner_provider.data.xlsx_writer import XlsxRowWriter
from tests.support.kill import sweep, zombies

COLUMNS = {"id": "integer", "name": "string"}
ROWS = [(number, f"name {number} " * 20) for number in range(200)]


def writer(folder: Path) -> XlsxRowWriter:
    return XlsxRowWriter(folder / "out.xlsx", COLUMNS, "token", folder / "scratch")


def test_a_disk_that_is_full_while_rows_are_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    book = writer(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(PermanentError, match="scratch"):
            book.write(ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    book.discard()
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_that_is_lost_before_the_workbook_is_packed(tmp_path: Path) -> None:
    with writer(tmp_path) as book:
        book.write(ROWS[:10])
        shutil.rmtree(tmp_path / "scratch")
        with pytest.raises(NotFound, match="scratch"):
            book.commit()
    assert not (tmp_path / "out.xlsx").exists()


@dataclass(frozen=True)
class Scene:
    root: Path


def write_workbook(scene: Scene) -> None:
    """One attempt: it shares the file, and has a scratch folder that no other attempt uses."""
    with XlsxRowWriter(scene.root / "out.xlsx", COLUMNS, "token", scene.root / f"scratch-{os.getpid()}") as book:
        for start in range(0, len(ROWS), 50):
            book.write(ROWS[start : start + 50])
        book.commit()


def is_complete(scene: Scene) -> None:
    book = openpyxl.load_workbook(scene.root / "out.xlsx", read_only=True)
    assert [tuple(row) for row in book.active.iter_rows(values_only=True)] == [tuple(COLUMNS), *ROWS]
    book.close()
    assert not list(scene.root.glob(".out.xlsx*"))


@pytest.mark.faults
@pytest.mark.parametrize("harness", [sweep, zombies])
def test_killed_or_outlived_at_every_failpoint(tmp_path: Path, harness: object) -> None:
    numbers = count()

    def make() -> Scene:
        scene = Scene(tmp_path / f"scene-{next(numbers)}")
        scene.root.mkdir()
        return scene

    assert harness(make, write_workbook, is_complete).scenarios >= 6  # type: ignore[operator]
