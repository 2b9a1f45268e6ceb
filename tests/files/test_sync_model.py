"""files.sync against a model: two trees that anybody may change, and syncs that fail or die at any step."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowrunner_provider.core.errors import ConnectionLost
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.names import is_part_name
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.options import SyncOptions
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.sync.engine import sync

NAMES = st.sampled_from(["a", "b", "c d", "x/e", "x/f", "x/y/g", ".h"])
TEXTS = st.binary(max_size=4)


class Killed(BaseException):
    """The process is gone: nothing that comes after it may have an effect."""


class Frail(LocalStore):
    """A store whose n-th step fails, or kills the process.

    :param steps: how many steps go well.
    """

    def __init__(self, steps: int, error: type[BaseException], state: FrailStore) -> None:
        super().__init__()
        self.steps, self.error, self.state = steps, error, state

    def _step(self) -> None:
        self.steps -= 1
        if self.steps == 0 or (self.steps < 0 and self.error is Killed):
            self.state.dead = self.error is Killed
            raise self.error("at this step")

    async def stat(self, path: str) -> Any:
        self._step()
        return await super().stat(path)

    async def list(self, path: str, recursive: bool = False) -> Any:
        async for entry in super().list(path, recursive):
            self._step()
            yield entry

    async def begin(self, *given: Any, **how: Any) -> Any:
        self._step()
        upload = await super().begin(*given, **how)
        self._step()
        return upload

    async def delete(self, path: str) -> None:
        self._step()
        await super().delete(path)
        self._step()

    async def mkdir(self, path: str, parents: bool = False) -> None:
        self._step()
        await super().mkdir(path, parents)


class FrailStore(MemoryStore):
    """A state store that the dead cannot write to."""

    dead = False

    def set(self, key: str, value: Any) -> None:
        if self.dead:
            raise Killed
        super().set(key, value)


class Sync(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="flowrunner-sync-"))
        self.one, self.two = self.folder / "one", self.folder / "two"
        self.one.mkdir()
        self.model: dict[str, bytes] = {}
        self.state = FrailStore()
        self.tick = 1_600_000_000

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(name=NAMES, data=TEXTS)
    def write(self, name: str, data: bytes) -> None:
        self._write(self.one, name, data)
        self.model[name] = data

    @rule(name=NAMES, data=TEXTS)
    def meddle(self, name: str, data: bytes) -> None:
        self._write(self.two, name, data)

    def _write(self, root: Path, name: str, data: bytes) -> None:
        self.tick += 10
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        os.utime(root / name, (self.tick, self.tick))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if self.model.pop(name, None) is not None:
            (self.one / name).unlink()

    @rule(name=NAMES, other=NAMES)
    def rename(self, name: str, other: str) -> None:
        if name in self.model:
            self.model[other] = self.model.pop(name)
            (self.one / other).parent.mkdir(parents=True, exist_ok=True)
            (self.one / name).rename(self.one / other)

    @rule(steps=st.integers(1, 60), side=st.booleans())
    def fail(self, steps: int, side: bool) -> None:
        self._interrupted(steps, side, ConnectionLost)

    @rule(steps=st.integers(1, 60), side=st.booleans())
    def kill(self, steps: int, side: bool) -> None:
        self._interrupted(steps, side, Killed)

    def _interrupted(self, steps: int, side: bool, error: type[BaseException]) -> None:
        frail = Frail(steps, error, self.state)
        stores = (frail, LocalStore()) if side else (LocalStore(), frail)
        try:
            self._sync(*stores)
        except error:
            self.state.dead = False
            return
        self._converged()

    @rule()
    def sync(self) -> None:
        result = self._sync(LocalStore(), LocalStore())
        assert result.listed == len(self.model) == result.copied + result.unchanged
        self._converged()

    def _sync(self, one: LocalStore, two: LocalStore) -> Any:
        run = Run.open(self.state, ("dag", "run", "task", "-1"))
        options = SyncOptions(delete_extra=True, concurrency=1)
        result = asyncio.run(sync((one, str(self.one)), (two, str(self.two)), run, options))
        self.state = FrailStore()  # the next sync is another task instance
        return result

    def _converged(self) -> None:
        assert self._tree(self.two) == self.model

    @invariant()
    def the_source_is_not_touched(self) -> None:
        assert self._tree(self.one) == self.model

    @invariant()
    def no_part_has_a_final_name(self) -> None:
        known = {"a", "b", "c d", "e", "f", "g", ".h"}
        strange = [path for path in self.two.rglob("*") if path.is_file() and path.name not in known]
        assert all(is_part_name(path.name) for path in strange)

    def _tree(self, root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


TestSync = Sync.TestCase
TestSync.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
