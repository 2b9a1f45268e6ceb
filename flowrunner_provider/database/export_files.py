"""The files of an export: hidden until all rows are complete, then each put under its final name."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import part_name
from flowrunner_provider.core.part_file import PartFile, disk_errors
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset, is_gzip
from flowrunner_provider.data.writers import RowWriter, part_token
from flowrunner_provider.database.export_plan import ExportPlan
from flowrunner_provider.database.partitions import MOST, Key, folder_of
from flowrunner_provider.database.results import ExportResult

__all__ = ["ExportFiles"]


_RECORD = "published.json"


class ExportFiles:
    """Where the rows go: one file beside its final name, or a hidden folder of them.

    Rows come folder by folder, so that one file is open at a time, however many there are.
    """

    def __init__(self, plan: ExportPlan, run: Run) -> None:
        self._plan, self._run = plan, run
        self._dest = Path(plan.dest)
        self.token = part_token(run.scope)
        gzip = ".gz" if is_gzip(self._dest) else ""
        stem = self._dest.name.removesuffix(self._dest.suffix) if gzip else self._dest.name
        self._suffix = Path(stem).suffix + (self._dest.suffix if gzip else "")
        self._stem = self._dest.name[: -len(self._suffix)]
        self._attempts = self._dest.with_name(part_name(f"{self._dest.name}.files", self.token))
        self._folder = self._attempts / run.lease.owner.token
        self.done: list[Dataset] = []
        self._writer: RowWriter | None = None
        self._key: Key = ()
        self._counts: dict[str, int] = {}
        self._earlier: set[str] = set()
        self._records: list[Path] = []

    def clear(self) -> None:
        """Remove what earlier attempts have left; what they have published is remembered."""
        with disk_errors(self._plan.dest):
            self._dest.with_name(part_name(self._dest.name, self.token)).unlink(missing_ok=True)
            if self._attempts.is_dir() and not self._attempts.is_symlink():
                for folder in self._attempts.iterdir():
                    with suppress(FileNotFoundError):  # its own attempt, not dead yet, removes it
                        self._empty(folder)

    def _empty(self, folder: Path) -> None:
        """Remove an attempt's folder; the list of what that has published stays until this one ends."""
        record = folder / _RECORD
        if not record.exists():
            _removed(folder)
            return
        self._earlier |= set(json.loads(record.read_bytes()))
        self._records.append(folder)
        for path in folder.iterdir():
            if path != record:
                _removed(path)

    def withdraw(self) -> None:
        """Remove what this attempt has written and not published."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        if self._folder.is_dir():
            self._empty(self._folder)
        self._tidy()

    def _tidy(self) -> None:
        with suppress(OSError):  # it is not there, or has a folder of another attempt in it
            self._attempts.rmdir()

    @contextmanager
    def given_way(self) -> Iterator[None]:
        """What fails in an attempt that a newer one has succeeded is no news: it has removed this one's files.

        :raises Fenced: instead.
        """
        try:
            yield
        except FlowRunnerError:
            try:
                self._run.lease.check()
            except Fenced:
                self.withdraw()
                raise
            raise

    @property
    def scratch(self) -> Path:
        """A hidden folder beside the file, for a format that needs one while it is written."""
        return self._folder / "scratch"

    @property
    def _many(self) -> bool:
        return self._plan.max_rows_per_file is not None

    def room(self) -> int | None:
        """How many rows still fit into the file that is open."""
        if self._plan.max_rows_per_file is None or self._writer is None:
            return None
        return self._plan.max_rows_per_file - self._writer.rows

    def writer(self, make: Callable[[Path], RowWriter], key: Key = ()) -> RowWriter:
        """The file to write into now.

        :param key: of the rows that come; those of one key come together.
        """
        if self._writer is not None and (self.room() == 0 or key != self._key):
            self._close()
        if self._writer is None:
            self._writer, self._key = make(self._next(key)), key
        return self._writer

    def _next(self, key: Key) -> Path:
        """The next file of the key."""
        if not self._plan.partition_by:
            self._counts[""] = number = self._counts.get("", 0) + 1
            return self._folder / self._name(number) if self._many else self._dest
        folder = folder_of(self._plan.partition_by, key)
        if folder in self._counts and key != self._key:
            raise ConfigError(
                "rows that belong into one folder do not come together: their values are equal in some ways only",
                field="partition_by",
                remedy="cast the columns to one type, or trim them, in sql",
            )
        self._counts[folder] = number = self._counts.get(folder, 0) + 1
        if len(self._counts) > MOST:
            raise ConfigError(
                f"there are more than {MOST} folders to write",
                field="partition_by",
                remedy="partition by fewer columns, or select fewer rows",
            )
        return self._folder / folder / (self._name(number) if self._many else self._dest.name)

    def _name(self, number: int) -> str:
        return f"{self._stem}-{number:05d}{self._suffix}"

    def _close(self) -> None:
        if self._writer is not None:
            self._run.lease.check()
            file = self._writer.commit()
            self.done.append(dataclasses.replace(file, preview=[]) if self._plan.partition_by and self.done else file)
            self._writer = None

    def publish(self, rows: int, kinds: dict[str, str]) -> ExportResult:
        """Everything has its final name."""
        failpoint("sql.export.before_publish")
        self._close()
        self._run.lease.check()
        with disk_errors(self._plan.dest):
            if self._plan.partition_by:
                self._publish_folders()
            elif self._many:
                self.done = [self._moved(file) for file in self.done]
                self._remove_surplus("")
            for folder in (*self._records, self._folder):
                _removed(folder)
            self._tidy()
        failpoint("sql.export.after_publish")
        first = self.done[0] if self.done else None
        return ExportResult(
            path=first.path if first else self._plan.dest,
            format=self._plan.format,
            rows=rows,
            columns=first.columns if first else kinds,
            bytes=sum(file.bytes for file in self.done),
            preview=first.preview if first else [],
            files=self.done,
        )

    def _publish_folders(self) -> None:
        """A file that a killed attempt of this task has published, and that there is no more, goes."""
        names = {str(Path(file.path).relative_to(self._folder)) for file in self.done}
        if self.done:
            self._write_down(sorted(names | self._earlier))
        self.done = [self._moved(file) for file in self.done]
        for name in sorted(self._earlier - names):
            self._run.lease.check()
            (self._dest.parent / name).unlink(missing_ok=True)
            failpoint("sql.export.after_remove")
        if self._many:
            for folder in self._counts:
                self._remove_surplus(folder)

    def _write_down(self, names: list[str]) -> None:
        record = PartFile(self._folder / _RECORD, self.token)
        record.open()
        record.write(json.dumps(names).encode())
        record.commit()
        failpoint("sql.export.after_record")

    def _moved(self, file: Dataset) -> Dataset:
        target = self._dest.parent / Path(file.path).relative_to(self._folder)
        if Path(file.path).stat().st_size != file.bytes:
            raise IntegrityError(
                f"{target} is not what was written", remedy="look for another process that writes it, then retry"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(file.path).replace(target)
        failpoint("sql.export.after_move")
        return dataclasses.replace(file, path=str(target))

    def _remove_surplus(self, folder: str) -> None:
        """Files of an earlier run that had more of them."""
        numbered = re.compile(re.escape(self._stem) + r"-(\d{5,})" + re.escape(self._suffix))
        for path in (self._dest.parent / folder).iterdir():
            found = numbered.fullmatch(path.name)
            if found and int(found[1]) > self._counts.get(folder, 0):
                self._run.lease.check()
                path.unlink()


def _removed(path: Path) -> None:
    """Remove what an attempt may have there; one that is not dead may still write into it, and removes that itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
