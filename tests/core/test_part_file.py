"""A file is whole under its final name, or not there at all."""

import os
import stat
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, NotFound, PermanentError
from flowrunner_provider.core.part_file import PartFile, disk_errors


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
