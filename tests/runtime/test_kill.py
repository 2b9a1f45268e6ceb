"""Whose wish it is that a task ends, and how its work ends then."""

import asyncio
import threading
from typing import Any

import pytest

from flowrunner_provider.core.errors import Throttled, TransientError
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime import kill
from flowrunner_provider.runtime.kill import Ending, in_time, stopped_by_user
from flowrunner_provider.runtime.operator import run_to_end


class Ti:
    dag_id, run_id, task_id = "d", "r", "t"

    def __init__(self, answer: Any, map_index: int = -1) -> None:
        self.answer, self.map_index = answer, map_index

    def get_task_states(self, **asked: Any) -> Any:
        assert asked == {"dag_id": "d", "task_ids": ["t"], "run_ids": ["r"], "map_index": self.map_index}
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("ti", "wish"),
    [
        (Ti({"r": {"t": "failed"}}), True),
        (Ti({"r": {"t": "restarting"}}), True),
        (Ti({"r": {"t": None}}), True),
        (Ti({"r": {"t_4": "success"}}, 4), True),
        (Ti({"r": {"t": "running"}}), False),
        (Ti({}), False),
        (Ti({"r": {}}), False),
        (Ti(OSError("the supervisor is gone")), False),
        (object(), False),
    ],
)
def test_only_what_airflow_says_is_a_users_wish(ti: Any, wish: bool) -> None:
    assert stopped_by_user(ti) is wish


def test_a_hanging_cancellation_does_not_hold_the_process() -> None:
    never = threading.Event()
    in_time(lambda: never.wait(30) and None, seconds=0.05)
    never.set()


def test_no_request_begins_and_the_task_gives_its_slot_up() -> None:
    run = Run.alone()
    asyncio.run(run.paced())
    Ending(run).ask()
    with pytest.raises(Throttled, match="the next attempt goes on") as caught:
        asyncio.run(run.paced())
    assert run.retry.wait(caught.value, 1, run.deadline) is None


@pytest.mark.parametrize(("finish", "ends"), [(30.0, "done"), (0.0, None)])
def test_what_is_under_way_may_finish_for_a_while(monkeypatch: pytest.MonkeyPatch, finish: float, ends: Any) -> None:
    monkeypatch.setattr(kill, "FINISH_SECONDS", finish)
    run = Run.alone()
    ending = Ending(run)

    async def work() -> str:
        ending.ask()
        ending.ask()
        await asyncio.sleep(0.05 if ends else 30)
        return "done"

    if ends:
        assert run_to_end(work(), run.deadline, ending) == ends
    else:
        with pytest.raises(TransientError, match="the next attempt goes on"):
            run_to_end(work(), run.deadline, ending)


def test_work_without_a_loop_is_interrupted_where_it_is() -> None:
    ending = Ending(Run.alone())
    for _ in range(2):  # in the middle, and before it begins
        with pytest.raises(TransientError), ending.interrupting():
            ending.ask()


def test_an_interruption_of_somebody_else_is_not_ours() -> None:
    ending = Ending(Run.alone())
    with pytest.raises(asyncio.CancelledError), ending.interrupting():
        raise asyncio.CancelledError


def test_after_the_work_the_result_is_recorded_in_peace() -> None:
    ending = Ending(Run.alone())
    with ending.interrupting():
        pass
    ending.ask()
