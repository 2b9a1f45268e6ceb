"""Streams end as promised or raise, however the bytes are cut into chunks."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core import streams
from flowrunner_provider.core.errors import BombDetected, ConfigError, FlowRunnerError, IntegrityError
from flowrunner_provider.core.streams import Count, Crc32, Digest, bounded, collect, decompressed, exactly, lines

MIB = 1024 * 1024

Wrapper = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


class Source:
    """An async iterator over ready chunks that notes whether it was closed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.closed = False
        self.taken = 0
        self._chunks = chunks

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._chunks:
                self.taken += 1
                yield chunk
        finally:
            self.closed = True


def outcome(wrap: Wrapper, chunks: Iterable[bytes]) -> tuple[list[bytes], type[FlowRunnerError] | None]:
    """What comes out of ``wrap``, and the error that ends it."""
    source = Source(chunks)

    async def run() -> tuple[list[bytes], type[FlowRunnerError] | None]:
        got: list[bytes] = []
        try:
            async for piece in wrap(source.stream()):
                got.append(piece)  # noqa: PERF401 - what came before an error counts
        except FlowRunnerError as error:
            return got, type(error)
        return got, None

    result = asyncio.run(run())
    assert source.closed
    return result


def joined(wrap: Wrapper, chunks: Iterable[bytes]) -> tuple[bytes, type[FlowRunnerError] | None]:
    pieces, error = outcome(wrap, chunks)
    assert all(pieces), "an empty chunk says nothing"
    return b"".join(pieces), error


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """``data`` in chunks, some of them empty."""
    points = [0, *sorted(min(point, len(data)) for point in at), len(data)]
    return [data[start:end] for start, end in pairwise(points)]


cuts = st.lists(st.integers(0, 400), max_size=12)
some_bytes = st.binary(max_size=300)
texts = st.text(alphabet="ab\r\n", max_size=60).map(str.encode)


def test_a_digest_counts_and_sums_whatever_passes() -> None:
    digest = Digest()
    for chunk in (b"ab", bytearray(b"c"), memoryview(b"def")):
        digest.update(chunk)
    assert (digest.size, digest.hexdigest()) == (6, hashlib.sha256(b"abcdef").hexdigest())
    assert Digest("md5").hexdigest() == hashlib.md5(b"").hexdigest()


def test_the_cheaper_kinds_count_too():
    count, crc = Count(), Crc32()
    for digest in (count, crc):
        for chunk in (b"1234", bytearray(b"56"), memoryview(b"789")):
            digest.update(chunk)
    assert (count.size, count.hexdigest()) == (9, "")
    assert (crc.size, crc.hexdigest()) == (9, "cbf43926"), "the check value of CRC-32"


@pytest.mark.parametrize("algorithm", ["sha-0", "", "shake_128"])
def test_an_unusable_checksum_algorithm_is_a_configuration_error(algorithm: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Digest(algorithm)
    assert caught.value.field == "algorithm"


@given(some_bytes, cuts, st.none() | st.integers(0, 310))
def test_bounded_passes_on_the_agreed_bytes_then_raises(data: bytes, at: list[int], limit: int | None) -> None:
    got, error = joined(lambda c: bounded(c, max_bytes=limit, what="body"), cut(data, at))
    assert got == data[:limit]
    assert error is (None if limit is None or len(data) <= limit else IntegrityError)


@given(some_bytes, cuts, st.integers(0, 310))
def test_exactly_never_passes_on_a_byte_too_many(data: bytes, at: list[int], length: int) -> None:
    got, error = joined(lambda c: exactly(c, length=length, what="body"), cut(data, at))
    assert got == data[:length]
    assert error is (None if len(data) == length else IntegrityError)


@given(some_bytes, cuts, st.integers(0, 310))
def test_collect_gives_all_or_raises(data: bytes, at: list[int], limit: int) -> None:
    source = Source(cut(data, at))
    if len(data) <= limit:
        assert asyncio.run(collect(source.stream(), max_bytes=limit, what="body")) == data
    else:
        with pytest.raises(IntegrityError, match="is larger than"):
            asyncio.run(collect(source.stream(), max_bytes=limit, what="body"))
    assert source.closed


@given(texts, cuts, st.integers(0, 20))
def test_lines_are_the_same_for_every_chunking(data: bytes, at: list[int], longest: int) -> None:
    def wrap(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return lines(chunks, max_line=longest, what="body")

    got, error = outcome(wrap, cut(data, at))
    assert (got, error) == outcome(wrap, [data])
    fitting = [line for line in data.split(b"\n") if len(line) <= longest]
    assert error is (None if len(fitting) == data.count(b"\n") + 1 else IntegrityError)
    if error is None:
        *complete, rest = data.split(b"\n")
        assert got == [line.removesuffix(b"\r") for line in complete] + ([rest] if rest else [])


def test_lines_stop_reading_at_a_line_without_end() -> None:
    source = Source(b"x" * 1000 for _ in range(10**6))

    async def run() -> None:
        async for _ in lines(source.stream(), max_line=5000, what="export"):
            pytest.fail("no line is complete")

    with pytest.raises(IntegrityError, match="export contains a line longer than 5000 bytes"):
        asyncio.run(run())
    assert source.taken == 6
    assert source.closed


def test_lines_of_single_bytes_take_linear_time() -> None:
    began = time.process_time()
    got, error = outcome(lambda c: lines(c, what="body"), (b"x" for _ in range(200_000)))
    assert (len(got[0]), error) == (200_000, None)
    assert time.process_time() - began < 1


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def raw_deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def unpack(encoding: str, max_bytes: int = MIB, max_ratio: float = 100) -> Wrapper:
    return lambda chunks: decompressed(
        chunks,
        encoding=encoding,  # type: ignore[arg-type]
        max_bytes=max_bytes,
        max_ratio=max_ratio,
        what="body",
    )


FORMATS = {"gzip": ("gzip", gzipped), "zlib": ("deflate", zlib.compress), "raw": ("deflate", raw_deflated)}


@pytest.mark.parametrize(("encoding", "pack"), FORMATS.values(), ids=FORMATS)
@given(data=some_bytes, at=cuts, limit=st.integers(0, 310))
def test_what_was_packed_comes_out_up_to_the_cap(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes, at: list[int], limit: int
) -> None:
    got, error = joined(unpack(encoding, limit), cut(pack(data), at))
    assert got == data[:limit]
    assert error is (None if len(data) <= limit else BombDetected)


@pytest.mark.parametrize(("encoding", "pack"), FORMATS.values(), ids=FORMATS)
@given(data=some_bytes, at=cuts, keep=st.integers(0, 400))
def test_a_truncated_stream_is_never_taken_for_whole(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes, at: list[int], keep: int
) -> None:
    packed = pack(data)
    got, error = joined(unpack(encoding), cut(packed[: min(keep, len(packed) - 1)], at))
    assert data.startswith(got)
    assert error is IntegrityError


@given(st.lists(some_bytes, min_size=1, max_size=4), cuts, st.integers(0, 5))
def test_gzip_members_follow_each_other_and_may_be_padded(members: list[bytes], at: list[int], zeros: int) -> None:
    packed = b"".join(map(gzipped, members)) + b"\0" * zeros
    assert joined(unpack("gzip"), cut(packed, at)) == (b"".join(members), None)


@given(some_bytes, st.binary(min_size=1, max_size=40), cuts)
def test_garbage_after_the_end_is_damage(data: bytes, garbage: bytes, at: list[int]) -> None:
    for packed, encoding in ((gzipped(data) + b"\0" + garbage.strip(b"\0") + b"!", "gzip"),
                             (zlib.compress(data) + garbage, "deflate")):  # fmt: skip
        assert joined(unpack(encoding), cut(packed, at)) == (data, IntegrityError)


@pytest.mark.parametrize(("encoding", "pack"), FORMATS.values(), ids=FORMATS)
@given(data=some_bytes, at=cuts, where=st.integers(0, 400), bit=st.integers(0, 7), limit=st.integers(0, 310))
def test_damage_gives_the_same_outcome_for_every_chunking(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes, at: list[int], where: int, bit: int, limit: int
) -> None:
    packed = bytearray(pack(data))
    packed[where % len(packed)] ^= 1 << bit
    whole = joined(unpack(encoding, limit), [bytes(packed)])
    assert joined(unpack(encoding, limit), cut(bytes(packed), at)) == whole
    assert joined(unpack(encoding, limit), [bytes((byte,)) for byte in packed]) == whole


@given(st.binary(max_size=60), cuts)
def test_any_bytes_give_the_same_outcome_for_every_chunking(data: bytes, at: list[int]) -> None:
    for encoding in ("gzip", "deflate"):
        assert joined(unpack(encoding, 100), cut(data, at)) == joined(unpack(encoding, 100), [data])


@pytest.mark.parametrize("flipped", [0, 3, 12, -6, -1])
def test_a_flipped_byte_is_damage(flipped: int) -> None:
    packed = bytearray(gzipped(b"some text that was packed"))
    packed[flipped] ^= 0xFF
    assert joined(unpack("gzip"), [bytes(packed)])[1] is IntegrityError


@pytest.mark.parametrize(("encoding", "pack"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_bomb_stops_at_the_ratio_for_every_chunking(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    bomb = pack(bytes(64 * MIB))
    chunks = [bomb[start : start + size] for start in range(0, len(bomb), size)]
    began = time.process_time()
    got, error = joined(unpack(encoding, 1 << 40), chunks)
    assert error is BombDetected
    assert MIB <= len(got) <= MIB + 64 * 1024
    assert time.process_time() - began < 2


def test_a_bomb_stops_at_the_size_even_when_the_ratio_is_open() -> None:
    got, error = joined(unpack("gzip", 3 * MIB, float("inf")), [gzipped(bytes(64 * MIB))])
    assert (len(got), error) == (3 * MIB, BombDetected)


def test_regular_data_below_one_mebibyte_is_no_bomb() -> None:
    assert joined(unpack("gzip"), [gzipped(bytes(MIB))]) == (bytes(MIB), None)


def test_large_data_of_an_ordinary_ratio_passes_in_small_pieces() -> None:
    chance = random.Random(7)
    data = b"".join(b"%d,%d\n" % (line, chance.getrandbits(30)) for line in range(300_000))
    packed = gzipped(data)
    for size in (777, len(packed)):
        pieces, error = outcome(unpack("gzip", len(data)), [packed[s : s + size] for s in range(0, len(packed), size)])
        assert (b"".join(pieces) == data, error) == (True, None)
        assert max(map(len, pieces)) <= streams._STEP


def test_a_megabyte_of_empty_members_is_quick() -> None:
    empty = gzipped(b"")
    began = time.process_time()
    assert joined(unpack("gzip"), [empty * (MIB // len(empty))]) == (b"", None)
    assert time.process_time() - began < 2


def test_closing_a_pipeline_early_closes_its_source() -> None:
    source = Source(b"line\n" * 3 for _ in range(10))

    async def run() -> bytes:
        pipeline = lines(bounded(source.stream(), max_bytes=None, what="body"), what="body")
        first = await anext(pipeline)
        await pipeline.aclose()
        return first

    assert asyncio.run(run()) == b"line"
    assert (source.taken, source.closed) == (1, True)


def test_a_source_without_aclose_is_welcome() -> None:
    class Plain:
        def __init__(self) -> None:
            self.left = [b"a", b"b"]

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    assert asyncio.run(collect(Plain(), max_bytes=2, what="body")) == b"ab"
