"""An attempt that the scheduler took for dead goes on, wherever it stood and wherever the next one stands.

What is under a final name is whole at every moment, the newer attempt does not suffer, and when both have ended
nothing is left beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowrunner_provider.files import guard
from tests.files import test_archive as archive
from tests.files import test_content as content
from tests.files import test_delete as delete
from tests.files import test_extract as extract
from tests.files import test_faults as faults
from tests.files import test_reshape as reshape
from tests.files import test_sync as sync
from tests.files.clouds import CLOUDS
from tests.files.far import FAR_SIDES
from tests.files.stage import KILLS
from tests.support.kill import overlaps, zombies

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

GONE = ("Fenced", "NotFound", "IntegrityError")
"""How a zombie may end: it is told, or it does not find its source or its part any more."""

TELLING = (".before_begin", ".after_begin", ".before_commit", ".before_rename", ".before_delete_source")


def some(*ends: str) -> Callable[[str], bool]:
    """Where attempts stop by default; FLOWRUNNER_KILLS=4: everywhere."""
    return lambda point: KILLS > 3 or point.endswith(ends or TELLING)


@dataclass(frozen=True)
class Asking:
    """An attempt that asks each time whether it has been succeeded: a second without is too long for these tests."""

    run: Callable[[Any], Any]

    def __call__(self, scene: Any) -> Any:
        guard.ASK_EVERY = 0.0
        return self.run(scene)


COPIES: list[tuple[str, str, dict[str, Any]]] = [
    ("local", "local", {"verify": "checksum"}),
    ("local", "sftp", {"move": True}),
    ("local", "ftps", {}),
]
if KILLS > 3:
    COPIES += [
        ("local", "local", {"move": True, "if_exists": "rename"}),
        ("local", "local", {"move": True, "if_exists": "fail"}),
        ("sftp", "local", {"move": True}),
        ("ftps", "local", {"move": True}),
        ("local", "ftps", {"move": True}),
        ("local", "sftp", {"if_exists": "fail"}),
    ]


@pytest.mark.backend
@pytest.mark.parametrize(("source", "dest", "options"), COPIES, ids=str)
def test_a_copy(request, tmp_path, source, dest, options):
    taken = options.get("if_exists") in ("skip", "rename")
    make = faults.scenes(request, tmp_path, source, dest, taken=taken, **options)
    zombies(make, Asking(faults.run_copy), faults.everything_arrived, at=some(), defeats=GONE)


@pytest.mark.backend
@pytest.mark.parametrize("store", CLOUDS)
def test_a_copy_into_a_cloud(request, tmp_path, monkeypatch, store):
    monkeypatch.setitem(FAR_SIDES, store, CLOUDS[store])
    make = faults.scenes(request, tmp_path, "local", store)
    at = some("before_begin", "before_part", "before_commit", "before_complete", "before_put")
    zombies(make, Asking(faults.run_copy), faults.everything_arrived, at=at, defeats=GONE)


def no_half_file(scene: faults.Scene) -> None:
    for name, data in scene.dest.all().items():
        assert name.endswith(".part") or data in (faults.FILES.get(name), b"was here before")


def test_two_copies_that_overlap(request, tmp_path):
    """Each stands anywhere; the second has found out how far the first came, and may go on there."""
    overlaps(
        faults.scenes(request, tmp_path, "local", "local"), Asking(faults.run_copy), faults.everything_arrived,
        midway=no_half_file, at=some("after_write", "before_commit", "before_rename"), defeats=GONE,
        limit=6 if KILLS <= 3 else 40 * KILLS, seed=KILLS,
    )  # fmt: skip


JOBS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], Callable[[Any], None]]] = {
    "sync": (
        lambda tmp_path: sync.scenes_local(tmp_path, {"backup_dir": "attic"}),
        sync.run_sync,
        sync.converged,
    ),
    "write": (lambda path: content.scenes(path, None, "local", {}), content.run_write, content.written_once),
    "delete": (lambda path: delete.scenes(path, None, "local"), delete.run_delete, delete.all_gone_and_counted),
    "split": (lambda path: reshape.scenes(path, None, "local", "split", {}), reshape.run_job, reshape.whole),
    "archive": (lambda path: archive.scenes(path, None, "local", {}), archive.run_pack, archive.packed_once),
}
"""Job -> how its scenes are made, what an attempt does, and the check."""

if KILLS > 3:
    JOBS |= {
        job: (lambda path, job=job: reshape.scenes(path, None, "local", job, {}), reshape.run_job, reshape.whole)
        for job in ("concat", "convert")
    }
    JOBS |= {
        "append": (
            lambda path: content.scenes(path, None, "local", {"append": True}),
            content.run_write,
            content.appended_once,
        ),
        "extract": (
            lambda path: extract.scenes(path, None, "local", "zip", {}),
            extract.run_unpack,
            extract.unpacked_once,
        ),
    }


@pytest.mark.parametrize("job", JOBS)
def test_what_makes_files_of_files(tmp_path, job):
    scenes, run, check = JOBS[job]
    at = some("before_begin", "before_commit", "before_delete")
    zombies(scenes(tmp_path), Asking(run), check, at=at, defeats=GONE)
