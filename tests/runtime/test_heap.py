"""What was there before the work is no business of the garbage collector; what the work makes still is."""

from __future__ import annotations

import gc
import weakref

import pytest

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.heap import frozen_heap
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from tests.support.context import execute, make_context

USUAL = gc.get_threshold()


class Loop:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class Working(FlowRunnerOperator):
    action = "tests.heap"

    async def perform(self, run: Run) -> list[bool]:
        made = weakref.ref(Loop())
        assert gc.get_threshold()[0] > USUAL[0]
        gc.collect()
        if self.task_id == "fails":
            raise PermanentError("no")
        return [made() is None, any(thing is self for thing in gc.get_objects())]


def test_the_work_is_collected_and_what_was_there_is_not_looked_at(tmp_path):
    operator = Working(task_id="works")
    assert execute(operator, make_context(operator, state=tmp_path / "a")) == [True, False]
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, USUAL)


def test_after_a_failure_everything_is_looked_at_again(tmp_path):
    operator = Working(task_id="fails")
    with pytest.raises(PermanentError):
        execute(operator, make_context(operator, state=tmp_path / "a"))
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, USUAL)


def test_of_two_that_overlap_the_last_one_puts_things_back():
    first, second = frozen_heap(), frozen_heap()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > USUAL[0]
    assert gc.get_freeze_count() > 0
    second.__exit__(None, None, None)
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, USUAL)
