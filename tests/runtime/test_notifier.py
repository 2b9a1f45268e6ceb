"""One coroutine behind both faces of a notifier."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, TimedOut
from flowrunner_provider.runtime.notifier import FlowRunnerNotifier


class Note(FlowRunnerNotifier):
    template_fields = ("text",)

    def __init__(self, *, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.sent: list[str] = []

    async def send(self, context: Any) -> None:
        self.sent.append(self.text)
        if self.text == "slow":
            await asyncio.Event().wait()


def test_a_callback_renders_and_sends() -> None:
    note = Note(text="{{ ds }} failed")
    note({"ds": "2026-01-02"})
    assert note.sent == ["2026-01-02 failed"]


def test_the_triggerer_sends_the_same() -> None:
    note = Note(text="x")
    asyncio.run(note.async_notify({}))
    assert note.sent == ["x"]


@pytest.mark.parametrize("timeout", [0.1, "0.1s", timedelta(milliseconds=100)])
def test_sending_has_a_time_limit(timeout: Any) -> None:
    with pytest.raises(TimedOut):
        Note(text="slow", timeout=timeout).notify({})


@pytest.mark.parametrize("timeout", ["soon", 0, "-1s"])
def test_a_bad_time_limit_is_refused_before_anything_is_sent(timeout: Any) -> None:
    note = Note(text="x", timeout=timeout)
    with pytest.raises(ConfigError) as caught:
        note.notify({})
    assert caught.value.field == "timeout"
    assert note.sent == []
