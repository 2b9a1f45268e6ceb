"""Storage of a task's journal: Airflow's task state store, or files before Airflow 3.3.

Both survive a killed worker. A failing store raises :class:`Unavailable`. It is never treated as empty, because
starting over could repeat an effect.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

from flowrunner_provider.core.errors import ConfigError, Unavailable
from flowrunner_provider.core.journal import KeyValue
from flowrunner_provider.runtime.settings import state_path

__all__ = ["FileStore", "TaskStateStore", "scope_of", "store_of"]


def scope_of(context: Mapping[str, Any]) -> tuple[str, ...]:
    """Return DAG, run, task and map index, which identify a task instance in every attempt."""
    ti = context["ti"]
    return (ti.dag_id, ti.run_id, ti.task_id, str(getattr(ti, "map_index", -1)))


def store_of(context: Mapping[str, Any]) -> KeyValue:
    """Return the durable store of the task instance of ``context``."""
    accessor = context.get("task_state_store")
    if accessor is not None:
        return TaskStateStore(accessor)
    return FileStore(state_path() / "state", scope_of(context))


class TaskStateStore:
    """``context["task_state_store"]`` (Airflow 3.3 and later); each call is one request."""

    def __init__(self, accessor: Any) -> None:
        self._accessor = accessor

    def get(self, key: str) -> Any:
        with _typed("read"):
            return self._accessor.get(key)

    def set(self, key: str, value: Any) -> None:
        with _typed("written"):
            self._accessor.set(key, value)


@contextmanager
def _typed(verb: str) -> Iterator[None]:
    try:
        yield
    except (AirflowRuntimeError, OSError) as error:
        raise Unavailable(
            f"the task state store could not be {verb} ({type(error).__name__})",
            remedy="check the API server's log; the retry continues from the last record",
        ) from error


class FileStore:
    """One file per key in a private folder per task instance; files are replaced atomically.

    :param root: shared by all workers that may run an attempt of the task.
    :param scope: identifies the task instance.
    """

    def __init__(self, root: Path, scope: tuple[str, ...]) -> None:
        self._folder = root / hashlib.sha256("\0".join(scope).encode()).hexdigest()[:40]

    def _file(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    def get(self, key: str) -> Any:
        path = self._file(key)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(
                f"the state file of {key!r} is damaged",
                field="state_path",
                remedy=f"inspect {path}, and delete it to start over",
            ) from error
        except OSError as error:
            raise Unavailable(f"the state file of {key!r} cannot be read: {error.strerror}") from error

    def set(self, key: str, value: Any) -> None:
        path = self._file(key)
        part = path.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(value))  # json.dump takes six times as long for a long record
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise Unavailable(f"the state file of {key!r} cannot be written: {error.strerror}") from error
