"""The rows of a report as its first attempt saw them, kept on this machine's disk until the report is sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import SecurityError
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
    """What is asked of the database."""

    conn_id: str
    sql: str
    parameters: Params = field(default=None, repr=False)

    @property
    def identity(self) -> str:
        return fingerprint(self.conn_id, self.sql, self.parameters)


class Snapshot:
    """The rows, in a folder of this task alone.

    :param folder: is made; nobody else may look into it.
    """

    def __init__(self, run: Run, folder: Path, query: Query) -> None:
        self._run, self.folder, self._query = run, folder, query
        self._checkpoint = replace(run, resume=True).checkpoint("report", query.identity)  # of use to what was sent

    @property
    def counted(self) -> int:
        """How many rows an earlier attempt has seen; 0 if there was none."""
        return int(self._checkpoint.state["rows"]) if self._checkpoint.state else 0

    def kept(self) -> Dataset | None:
        """The rows that an earlier attempt has kept, if they are still there and whole."""
        state = self._checkpoint.state
        if not state:
            return None
        dataset = Dataset.from_value(state)
        path = Path(dataset.path)
        whole = path.is_file() and not path.is_symlink() and path.stat().st_size == dataset.bytes
        return dataset if whole else None

    def take(self, connect: Callable[[], Session]) -> Dataset:
        """The rows as they are now; a retry will find them."""
        self._make_folder()
        plan = ExportPlan(dest=str(self.folder / "rows.jsonl"), sql=self._query.sql, parameters=self._query.parameters)
        result = export(plan, connect, self._run)
        dataset = replace(result.files[0], preview=[])  # values of rows do not belong into the state store
        self._checkpoint.save(asdict(dataset), force=True)
        return dataset

    def _make_folder(self) -> None:
        failpoint("email.send_report.before_folder")
        with disk_errors(str(self.folder)):
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.is_symlink():
                raise SecurityError(f"{self.folder} is a link", remedy="remove it: somebody else has put it there")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(mode=0o700)
        failpoint("email.send_report.after_folder")

    def remove(self) -> None:
        """The report is sent, and nobody will ask."""
        failpoint("email.send_report.before_remove")
        shutil.rmtree(self.folder, ignore_errors=True)
        failpoint("email.send_report.after_remove")
