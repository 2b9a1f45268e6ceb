"""The rows of a report as its first attempt read them, kept on the worker's disk until the mail is sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import FlowRunnerError, SecurityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.export import export
from flowrunner_provider.database.export_plan import ExportPlan

__all__ = ["Query", "Snapshot"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query and the connection that it runs on."""

    conn_id: str
    sql: str
    parameters: Params = field(default=None, repr=False)

    @property
    def identity(self) -> str:
        return fingerprint(self.conn_id, self.sql, self.parameters)


class Snapshot:
    """The rows of one report, and the files made of them.

    Each attempt writes into a folder named after its lease, so two attempts at once never share a file.

    :param root: the folder of this task instance; created with mode 0700.
    """

    def __init__(self, run: Run, root: Path, query: Query) -> None:
        self._run, self._root, self._query = run, root, query
        self.folder = root / run.lease.owner.token
        # resume=False must not forget the rows of a mail that is already out.
        self._checkpoint = replace(run, resume=True).checkpoint("report", query.identity)

    @property
    def row_count(self) -> int:
        """The number of rows that an earlier attempt read; 0 if none did."""
        return int(self._checkpoint.state["rows"]) if self._checkpoint.state else 0

    def load(self) -> Dataset | None:
        """Return the rows that an earlier attempt saved, or None if they are missing or incomplete on this machine."""
        state = self._checkpoint.state
        if not state:
            return None
        dataset = Dataset.from_value(state)
        path = Path(dataset.path)
        complete = path.is_file() and not path.is_symlink() and path.stat().st_size == dataset.bytes
        return dataset if complete else None

    def take(self, connect: Callable[[], Session]) -> Dataset:
        """Run the query and save its rows for this attempt and its retries."""
        self._make_folder()
        plan = ExportPlan(dest=str(self._rows), sql=self._query.sql, parameters=self._query.parameters)
        result = export(plan, connect, self._run)
        dataset = replace(result.files[0], preview=[])  # the state store must not hold values of rows
        self._checkpoint.save(asdict(dataset), force=True)
        return dataset

    @property
    def _rows(self) -> Path:
        return self.folder / "rows.jsonl"

    def _make_folder(self) -> None:
        failpoint("email.send_report.before_folder")
        self._run.lease.check()  # a fenced attempt must not delete the rows of the newer one
        with disk_errors(str(self._root)):
            self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._root.is_symlink():
                raise SecurityError(
                    f"{self._root} is a symbolic link", remedy="remove it: this package never makes one"
                )
            shutil.rmtree(self._root, ignore_errors=True)
            self._root.mkdir(mode=0o700)
            self.folder.mkdir(mode=0o700)
        failpoint("email.send_report.after_folder")

    def remove(self) -> None:
        """Delete all files of the task instance; a fenced attempt leaves that to the newer one, which may read them."""
        failpoint("email.send_report.before_remove")
        if not self._run.lease.lost():
            shutil.rmtree(self._root, ignore_errors=True)
        failpoint("email.send_report.after_remove")

    @contextmanager
    def fencing(self) -> Iterator[None]:
        """Raise :class:`Fenced` in place of any error of an attempt that a newer one has replaced.

        The newer attempt may have deleted this one's files, and may still read its rows.
        """
        try:
            yield
        except FlowRunnerError:
            if self._run.lease.lost():
                if not self._rows.exists():
                    shutil.rmtree(self.folder, ignore_errors=True)
                with suppress(OSError):  # not empty: the newer attempt uses it
                    self._root.rmdir()
                self._run.lease.check()
            raise
