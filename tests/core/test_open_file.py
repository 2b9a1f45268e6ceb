"""Ranges of one file, in any order and by several threads; and the CRC-32 of a whole from those of its parts."""

import os
import random
import zlib
from pathlib import Path

import pytest

from flowrunner_provider.core.crc32 import crc32_joined
from flowrunner_provider.core.errors import NotFound, PermanentError
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.streams import Crc32


def test_ranges_come_and_go_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = OpenFile(str(path), os.open(path, os.O_RDWR | os.O_CREAT))
    file.write(memoryview(b"world"), 6)
    file.write(memoryview(b"hello "), 0)
    assert path.read_bytes() == b"hello world"
    buffer = memoryview(bytearray(8))
    assert (file.read_into(buffer, 6), bytes(buffer[:5])) == (5, b"world")
    assert (file.read(5, 0), file.read(5, 11)) == (b"hello", b"")


def test_it_is_closed_when_nobody_has_it_any_more(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    before = set(os.listdir("/proc/self/fd"))
    file = OpenFile.to_read(str(tmp_path / "f"))
    with_a_thread = file
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    del file
    assert with_a_thread.read(1, 0) == b"x"
    del with_a_thread
    assert set(os.listdir("/proc/self/fd")) <= before


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("pipe", "link", ""):
        with pytest.raises(PermanentError):
            OpenFile.to_read(str(tmp_path / name))
    with pytest.raises(NotFound):
        OpenFile.to_read(str(tmp_path / "absent"))


@pytest.mark.parametrize("seed", range(20))
def test_joined_checksums_are_those_of_the_whole(seed: int) -> None:
    draw = random.Random(seed)
    first, second = draw.randbytes(draw.randrange(5_000)), draw.randbytes(draw.choice([0, 1, 255, 256, 70_001]))
    joined = crc32_joined(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)
    one, other = Crc32(), Crc32()
    one.update(first + second)
    other.update(first)
    other.append(zlib.crc32(second), len(second))
    assert (one.hexdigest(), one.size) == (other.hexdigest(), other.size)


@pytest.mark.parametrize("length", [1 << 20, (1 << 32) - 1, 1 << 32, (1 << 32) + 1])
def test_a_length_beyond_32_bits_is_several_shorter_ones(length: int) -> None:
    half, rest = length // 2, length - length // 2
    whole = crc32_joined(0x12345678, 0, length)
    assert crc32_joined(crc32_joined(0x12345678, 0, half), 0, rest) == whole
