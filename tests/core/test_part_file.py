"""A file has its final name only when it is complete."""

import errno
import fcntl
import itertools
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from flowrunner_provider.core import part_file
from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, Fenced, NotFound, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import PartFile, disk_errors
from tests.support.kill import overlaps

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "5"))


def test_the_final_name_appears_with_the_commit(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.csv"
    part = PartFile(target, "t1")
    part.open()
    part.write(b"hello")
    assert not target.exists()
    assert part.tell() == 5
    part.commit()
    assert target.read_bytes() == b"hello"
    assert os.listdir(target.parent) == ["a.csv"]


def test_the_next_attempt_goes_on_at_the_offset_it_trusts(tmp_path: Path) -> None:
    first = PartFile(tmp_path / "a", "t1")
    first.open()
    first.write(b"trusted-rest")
    first.close()
    second = PartFile(tmp_path / "a", "t1")
    assert second.open(7) == 7
    assert b"".join(second.read()) == b"trusted"
    second.write(b"!")
    second.commit()
    assert (tmp_path / "a").read_bytes() == b"trusted!"


def test_it_cannot_go_on_beyond_what_survived(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a", "t1")
    assert part.open(100) == 0


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    assert PartFile(tmp_path / "a", "t1").part != PartFile(tmp_path / "a", "t2").part


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    part = PartFile(target, "t1")
    part.open()
    part.write(b"new")
    assert target.read_bytes() == b"old"
    with pytest.raises(AlreadyExists, match="if_exists='overwrite'"):
        part.commit(replace=False)
    assert target.read_bytes() == b"old"
    part.discard()
    assert os.listdir(tmp_path) == ["a"]


def test_mode_and_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, mode, expected in [("a", None, 0o640), ("b", 0o600, 0o600)]:
            part = PartFile(tmp_path / name, "t")
            part.open()
            assert stat.S_IMODE(part.part.stat().st_mode) == 0o600, "secret until it is whole"
            part.commit(mode=mode)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux returns the umask without setting it")
def test_reading_the_umask_does_not_change_the_files_of_other_threads(tmp_path: Path) -> None:
    expected, stop = 0o777 & ~part_file._umask(), threading.Event()

    def read_umask() -> None:
        while not stop.is_set():
            part_file._umask()

    thread = threading.Thread(target=read_umask)
    thread.start()
    try:
        folders = [tmp_path / f"folder{number}" for number in range(1000)]
        for folder in folders:
            folder.mkdir()
    finally:
        stop.set()
        thread.join()
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {expected}


def test_without_procfs_the_umask_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = part_file._umask()
    monkeypatch.setattr(part_file, "_UMASK", re.compile(rb"^not in the file$"))
    assert part_file._umask() == expected


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a", "t1")
    part.part.symlink_to(tmp_path / "victim")
    with pytest.raises(PermanentError):
        part.open()
    assert not (tmp_path / "victim").exists()


def test_a_full_disk_says_so() -> None:
    with pytest.raises(PermanentError, match=r"is full \(.+ are free\) -> free some space"), disk_errors("/dev/full"):
        Path("/dev/full").write_bytes(b"x")


@pytest.mark.parametrize(
    ("cause", "error"), [(FileNotFoundError(2, "x"), NotFound), (PermissionError(13, "x"), AccessDenied)]
)
def test_disk_errors_are_named_after_what_to_do(cause: OSError, error: type[Exception]) -> None:
    with pytest.raises(error), disk_errors("/some/file"):
        raise cause


def opened(path: Path, offset: int = 0, data: bytes = b"") -> PartFile:
    """A writer in the middle of its work, as another process would have it."""
    part = PartFile(path, "t1")
    part.open(offset)
    part.write(data)
    return part


def test_a_writer_whose_part_was_begun_afresh_names_nothing(tmp_path: Path) -> None:
    zombie = opened(tmp_path / "a", data=b"whole")
    newer = opened(tmp_path / "a", data=b"ha")
    with pytest.raises(Fenced, match="no longer belongs to this attempt"):
        zombie.commit()
    zombie.discard()
    assert os.listdir(tmp_path) == [newer.part.name]
    newer.write(b"lf")
    newer.commit()
    assert (tmp_path / "a").read_bytes() == b"half"


def test_a_writer_whose_part_was_finished_or_removed_names_nothing(tmp_path: Path) -> None:
    zombie = opened(tmp_path / "a", data=b"old")
    opened(tmp_path / "a", data=b"new").commit()
    with pytest.raises(Fenced):
        zombie.commit(replace=False)
    zombie.withdraw()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_part_that_is_still_written_is_not_gone_on_with(tmp_path: Path) -> None:
    zombie = opened(tmp_path / "a", data=b"0123456789")
    newer = PartFile(tmp_path / "a", "t1")
    assert newer.open(5) == 0, "it begins in a file of its own"
    newer.write(b"new")
    with pytest.raises(Fenced):
        zombie.commit()
    zombie.close()
    newer.commit()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_descriptor_that_was_handed_out_keeps_the_part(tmp_path: Path) -> None:
    zombie = opened(tmp_path / "a", data=b"0123456789")
    copy = zombie.duplicate()
    zombie.close()
    assert PartFile(tmp_path / "a", "t1").open(5) == 0
    os.close(copy)


def test_one_that_got_its_name_while_it_was_opened_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path / "a", data=b"0123456789")

    def flock(file: int, how: int) -> None:
        monkeypatch.undo()
        first.commit()
        fcntl.flock(file, how)

    monkeypatch.setattr(part_file.fcntl, "flock", flock)
    assert PartFile(tmp_path / "a", "t1").open(5) == 0
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_part_is_gone_on_with_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(file: int, how: int) -> None:
        raise OSError(number, "none here")

    monkeypatch.setattr(part_file.fcntl, "flock", no_locks)
    opened(tmp_path / "a", data=b"0123456789").close()
    part = PartFile(tmp_path / "a", "t1")
    assert part.open(5) == 5
    part.withdraw()
    assert part.part.exists(), "somebody else may have it"
    opened(tmp_path / "a").withdraw()
    assert not part.part.exists()


def test_a_new_part_that_another_attempt_takes_up_at_once_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = fcntl.flock, list[int]()

    def flock(file: int, how: int) -> None:
        if not seen:
            seen.append(os.open(PartFile(tmp_path / "a", "t1").part, os.O_RDWR))
            real(seen[0], how)
        real(file, how)

    monkeypatch.setattr(part_file.fcntl, "flock", flock)
    part = opened(tmp_path / "a", data=b"mine")
    os.write(seen[0], b"theirs")
    part.commit()
    os.close(seen[0])
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("offset", [0, 3])
def test_what_is_withdrawn_is_gone_unless_another_one_has_its_name(tmp_path: Path, offset: int) -> None:
    opened(tmp_path / "a", data=b"before").close()
    first = opened(tmp_path / "a", offset)
    first.withdraw()
    assert os.listdir(tmp_path) == []
    first = opened(tmp_path / "a")
    second = opened(tmp_path / "a")
    first.withdraw()
    assert second.part.exists()


# -- two attempts in two processes


def write_slowly(folder: Path) -> None:
    part = PartFile(folder / "out" / "a", "t1")
    part.open(part.part.stat().st_size if part.part.exists() else 0)
    try:
        for number in range(part.tell(), 4):
            failpoint("before_write")
            part.write(bytes([number]))
        failpoint("before_commit")
        part.commit()
    except Fenced:
        part.withdraw()
        raise
    failpoint("after_commit")


def whole(folder: Path) -> None:
    if (folder / "out" / "a").exists():
        assert (folder / "out" / "a").read_bytes() == bytes(range(4))


def alone(folder: Path) -> None:
    whole(folder)
    assert os.listdir(folder / "out") == ["a"]


@pytest.mark.faults
def test_two_attempts_wherever_each_of_them_stands(tmp_path: Path) -> None:
    numbers = itertools.count()

    def make() -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return folder

    report = overlaps(make, write_slowly, alone, midway=whole, limit=None if KILLS > 5 else 8)
    assert report.scenarios >= 8
