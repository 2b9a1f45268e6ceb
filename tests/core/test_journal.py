"""The journal and its checkpoints: a retry resumes, a wished re-run starts over, damage stops everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.checkpoint import Checkpoint, fingerprint
from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import ConfigError, Fenced
from flowrunner_provider.core.journal import MAX_RECORD_BYTES, Journal, MemoryStore


def attempt(store: MemoryStore, max_tries: int = 3) -> Journal:
    return Journal(store, max_tries=max_tries)


def test_a_retry_reads_what_the_last_attempt_wrote() -> None:
    store = MemoryStore()
    attempt(store).write("checkpoint", "pages", {"state": 7})
    assert attempt(store).read("checkpoint", "pages") == {"generation": 0, "state": 7}


def test_a_clear_after_a_failure_resumes() -> None:
    store = MemoryStore()
    attempt(store, 3).write("checkpoint", "pages", {"state": 7})
    assert attempt(store, 7).read("checkpoint", "pages") is not None


def test_a_clear_after_a_success_starts_over() -> None:
    store = MemoryStore()
    first = attempt(store, 3)
    first.write("effect", "send", {"state": "confirmed"})
    first.finish({"rows": 1})
    again = attempt(store, 7)
    assert (again.generation, again.finished, again.read("effect", "send")) == (1, False, None)


def test_a_retry_after_the_end_finds_the_result() -> None:
    store = MemoryStore()
    attempt(store, 3).finish({"rows": 1})
    again = attempt(store, 3)
    assert (again.generation, again.finished, again.result) == (0, True, {"rows": 1})


def test_a_clear_after_a_failure_and_then_a_success_counts_as_one_run() -> None:
    store = MemoryStore()
    attempt(store, 3)
    attempt(store, 7).finish(None)
    assert attempt(store, 7).finished, "a worker lost right after the end is not a wish to start over"
    assert attempt(store, 11).generation == 1


def test_a_large_result_is_not_kept() -> None:
    store = MemoryStore()
    attempt(store).finish("x" * MAX_RECORD_BYTES)
    assert attempt(store).result is None
    assert attempt(store).finished


@pytest.mark.parametrize("header", ["text", [], {"v": 2}, {}, 7])
def test_a_damaged_header_stops_the_work(header: object) -> None:
    store = MemoryStore()
    store.set("flowrunner", header)
    with pytest.raises(ConfigError, match="damaged or was written by a newer version"):
        Journal(store, max_tries=3)


@pytest.mark.parametrize("record", ["text", [], {}, {"generation": "0"}])
def test_a_damaged_record_stops_the_work(record: object) -> None:
    store = MemoryStore()
    store.set("flowrunner.checkpoint.pages", record)
    with pytest.raises(ConfigError, match="damaged"):
        attempt(store).read("checkpoint", "pages")


def test_a_record_that_is_too_large_is_refused_before_it_is_written() -> None:
    store = MemoryStore()
    with pytest.raises(ConfigError, match="60000"):
        attempt(store).write("checkpoint", "pages", {"state": "x" * MAX_RECORD_BYTES})
    assert "flowrunner.checkpoint.pages" not in store.values


class TestCheckpoint:
    def test_goes_on_where_the_last_attempt_was(self) -> None:
        store = MemoryStore()
        Checkpoint(attempt(store), "pages", identity="a").save({"page": 3}, force=True)
        assert Checkpoint(attempt(store), "pages", identity="a").state == {"page": 3}

    def test_other_work_starts_over(self) -> None:
        store = MemoryStore()
        Checkpoint(attempt(store), "pages", identity="a").save({"page": 3}, force=True)
        assert Checkpoint(attempt(store), "pages", identity="b").state is None

    def test_resume_false_starts_over(self) -> None:
        store = MemoryStore()
        Checkpoint(attempt(store), "pages").save({"page": 3}, force=True)
        assert Checkpoint(attempt(store), "pages", resume=False).state is None

    def test_writes_at_most_every_few_seconds(self) -> None:
        clock, store = ManualClock(), MemoryStore()
        checkpoint = Checkpoint(attempt(store), "pages", every=3, clock=clock)
        written = []
        for page in range(8):
            clock.advance(1)
            written.append(checkpoint.save(page))
        assert written == [False, False, True, False, False, True, False, False]
        assert checkpoint.state == 5

    def test_a_fenced_attempt_does_not_overwrite_the_newer_one(self) -> None:
        def guard() -> None:
            raise Fenced("another")

        store = MemoryStore()
        with pytest.raises(Fenced):
            Checkpoint(attempt(store), "pages", guard=guard).save(1, force=True)
        assert "flowrunner.checkpoint.pages" not in store.values


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_fingerprints_tell_different_work_apart(one: list[str], other: list[str]) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)
