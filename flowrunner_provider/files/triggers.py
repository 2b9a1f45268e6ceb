"""What the triggerer looks at for the file sensors. Triggers only observe, and carry no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import Json
from flowrunner_provider.files.uri import parse
from flowrunner_provider.files.wait import FileWatch, Memory
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["FileTrigger"]


class FileTrigger(FlowRunnerTrigger):
    """Looks at a folder until the files that are waited for are there.

    :param watch: a :class:`FileWatch` in its JSON form.
    """

    def __init__(self, *, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watch = dict(watch)
        self.memory: Memory = {}
        """What earlier looks saw; a triggerer that starts anew begins to watch anew."""

    def arguments(self) -> dict[str, Any]:
        return {"watch": self.watch}

    async def observe(self) -> Json:
        from flowrunner_provider.files.hook import aopen_store

        watch = FileWatch.from_json(self.watch)
        watch.check()
        location = parse(watch.path, field="path")
        async with await aopen_store(location, field="path") as store:
            found = await watch.look(store, location, self.memory, SYSTEM_CLOCK)
        return None if found is None else asdict(found)
