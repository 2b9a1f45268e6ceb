"""Whose wish it is that a task ends."""

import threading
from typing import Any

import pytest

from flowrunner_provider.runtime.kill import in_time, stopped_by_user


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
