"""The journal of one task instance: state that survives a killed process.

All attempts of a task instance share one small key-value store. Its *header* contains the current *generation* of the
work, and whether that generation is finished::

    flowrunner                     {"v": 1, "generation": 0, "max_tries": 3, "finished": false}
    flowrunner.checkpoint.<name>   {"generation": 0, "state": ...}
    flowrunner.effect.<name>       {"generation": 0, ...}
    flowrunner.confirmed.<name>    {"generation": 0, ...}

A retry, or a clear after a failure, resumes the same generation. A clear after a success requests the work again: it
opens the next generation, which ignores older records. The two are distinguished by ``max_tries``, which grows when a
user clears a task. The header is written only when a generation finishes; until then, every attempt derives the same
one.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from flowrunner_provider.core.errors import ConfigError, Json

__all__ = ["MAX_RECORD_BYTES", "Journal", "KeyValue", "MemoryStore"]

MAX_RECORD_BYTES = 60_000
"""Below the 65,535 bytes at which Airflow's state store warns or refuses."""

_HEADER = "flowrunner"


class KeyValue(Protocol):
    """A durable store of small JSON values; a failing call raises and never looks like a missing key."""

    def get(self, key: str) -> Any:
        """Return the value, or None if there is none."""

    def set(self, key: str, value: Any) -> None:
        """Store ``value`` durably before returning."""


class MemoryStore:
    """An in-memory :class:`KeyValue` for tests and for runs without Airflow."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str) -> Any:
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)


def _damaged(key: str) -> ConfigError:
    return ConfigError(
        f"the state record {key!r} of this task is damaged or was written by a newer version",
        field="task_state_store",
        remedy="inspect the task's state store; clear it to start over",
    )


class Journal:
    """Reads and writes the records of the current generation.

    :param store: holds the records.
    :param max_tries: Airflow's ``ti.max_tries`` at this attempt.
    :raises ConfigError: if the header is damaged or was written by a newer version; starting over could repeat effects.
    """

    def __init__(self, store: KeyValue, *, max_tries: int) -> None:
        self.store = store
        header = store.get(_HEADER)
        if header is None:
            header = {"v": 1, "generation": 0, "max_tries": max_tries, "finished": False}
        elif not isinstance(header, dict) or header.get("v") != 1:
            raise _damaged(_HEADER)
        elif header["finished"] and header["max_tries"] < max_tries:
            header = {"v": 1, "generation": header["generation"] + 1, "finished": False}
        self._header: dict[str, Any] = {**header, "max_tries": max_tries}
        self.generation: int = header["generation"]

    @property
    def max_tries(self) -> int:
        """Airflow's ``ti.max_tries`` at this attempt: it grows when a user clears the task."""
        return int(self._header["max_tries"])

    @property
    def finished(self) -> bool:
        """True if an earlier attempt finished this generation and was lost before Airflow knew."""
        return bool(self._header["finished"])

    @property
    def result(self) -> Any:
        """The value passed to :meth:`finish`, if it was stored."""
        return self._header.get("result")

    def finished_by_now(self) -> bool:
        """Return whether an attempt has finished this generation, or a later one, since this attempt started."""
        header = self.store.get(_HEADER)
        return isinstance(header, dict) and bool(header["finished"]) and header["generation"] >= self.generation

    def finish(self, result: Json) -> None:
        """Mark this generation as finished; a small ``result`` is stored with it."""
        self._header["finished"] = True
        if len(json.dumps(result)) <= MAX_RECORD_BYTES // 2:
            self._header["result"] = result
        self.store.set(_HEADER, self._header)

    def read(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the record of this generation, or None; a failing store raises."""
        key = f"{_HEADER}.{kind}.{name}"
        record = self.store.get(key)
        if record is None:
            return None
        if not isinstance(record, dict) or not isinstance(record.get("generation"), int):
            raise _damaged(key)
        return record if record["generation"] == self.generation else None

    def write(self, kind: str, name: str, record: dict[str, Any]) -> None:
        """Store a record of this generation durably.

        :raises ConfigError: if it is too large for the store.
        """
        value = {"generation": self.generation, **record}
        size = len(json.dumps(value))
        if size > MAX_RECORD_BYTES:
            raise ConfigError(
                f"the {kind} record {name!r} has {size} bytes; a state record holds {MAX_RECORD_BYTES}",
                field=name,
                remedy="store cursors and ranges, not data",
            )
        self.store.set(f"{_HEADER}.{kind}.{name}", value)
