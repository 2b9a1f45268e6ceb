"""A sensor for the tests of the base classes: it waits for a file with JSON in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import Json, Rejected, Throttled, Unavailable
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger


class FileTrigger(FlowRunnerTrigger):
    """Tells the content of a file; ``broken`` in it is an error for good, ``busy`` one that passes."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def arguments(self) -> dict[str, Any]:
        return {"path": self.path}

    async def observe(self) -> Json:
        path = Path(self.path)
        if not path.exists():
            return None
        text = path.read_text()
        if text == "broken":
            raise Rejected("the file is broken", status=7, remedy="mend it")
        if text == "busy":
            path.write_text('{"after": "busy"}')
            raise Unavailable("busy", retry_after=0.0)
        if text == "throttled":
            raise Throttled("throttled", retry_after=900.0)
        if text == "down":
            raise Unavailable("down")
        result: Json = json.loads(text)
        return result


class FileSensor(FlowRunnerSensor):
    """Waits for a file."""

    action = "test.wait"
    template_fields = ("path",)

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def trigger(self) -> FlowRunnerTrigger:
        return FileTrigger(path=self.path, poll_interval=30.0)
