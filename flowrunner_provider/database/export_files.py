"""The files of an export: hidden until all rows are complete, then moved to their final names."""

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
from flowrunner_provider.database.partitions import MAX_FOLDERS, Key, folder_of
from flowrunner_provider.database.results import ExportResult

__all__ = ["ExportFiles"]


_PUBLISHED = "published.json"


class ExportFiles:
    """The destination of the rows: one temporary file beside its final name, or a hidden folder of files.

    Rows arrive partition by partition, so one file is open at a time, however many there are.
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
        self._published_earlier: set[str] = set()
        self._recorded_attempts: list[Path] = []

    def clear(self) -> None:
        """Remove leftovers of earlier attempts; remember what they published."""
        with disk_errors(self._plan.dest):
            self._dest.with_name(part_name(self._dest.name, self.token)).unlink(missing_ok=True)
            if self._attempts.is_dir() and not self._attempts.is_symlink():
                for folder in self._attempts.iterdir():
                    with suppress(FileNotFoundError):  # its own attempt is still alive and removes it
                        self._clear_attempt(folder)

    def _clear_attempt(self, folder: Path) -> None:
        """Remove an attempt's folder, but keep its record of published files until this attempt ends."""
        record = folder / _PUBLISHED
        if not record.exists():
            _remove(folder)
            return
        self._published_earlier |= set(json.loads(record.read_bytes()))
        self._recorded_attempts.append(folder)
        for path in folder.iterdir():
            if path != record:
                _remove(path)

    def withdraw(self) -> None:
        """Remove everything this attempt wrote and did not publish."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        if self._folder.is_dir():
            self._clear_attempt(self._folder)
        self._remove_attempts_folder()

    def _remove_attempts_folder(self) -> None:
        with suppress(OSError):  # it does not exist, or holds another attempt's folder
            self._attempts.rmdir()

    @contextmanager
    def fenced_errors(self) -> Iterator[None]:
        """Raise Fenced instead of an error if a newer attempt took over, because it removed this one's files.

        :raises Fenced: in that case.
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
        """A hidden folder for a format that needs temporary files while it is written."""
        return self._folder / "scratch"

    @property
    def _is_split(self) -> bool:
        return self._plan.max_rows_per_file is not None

    def room(self) -> int | None:
        """Return how many rows still fit into the open file; None for no limit."""
        if self._plan.max_rows_per_file is None or self._writer is None:
            return None
        return self._plan.max_rows_per_file - self._writer.rows

    def writer(self, make: Callable[[Path], RowWriter], key: Key = ()) -> RowWriter:
        """Return the writer of the current file.

        :param key: the partition of the next rows; the rows of one partition arrive together.
        """
        if self._writer is not None and (self.room() == 0 or key != self._key):
            self._close()
        if self._writer is None:
            self._writer, self._key = make(self._next_path(key)), key
        return self._writer

    def _next_path(self, key: Key) -> Path:
        """Return the path of the partition's next file."""
        if not self._plan.partition_by:
            self._counts[""] = number = self._counts.get("", 0) + 1
            return self._folder / self._numbered_name(number) if self._is_split else self._dest
        folder = folder_of(self._plan.partition_by, key)
        if folder in self._counts and key != self._key:
            raise ConfigError(
                "the rows of one folder do not arrive together: its values are equal in some comparisons only",
                field="partition_by",
                remedy="cast the columns to one type, or trim them, in sql",
            )
        self._counts[folder] = number = self._counts.get(folder, 0) + 1
        if len(self._counts) > MAX_FOLDERS:
            raise ConfigError(
                f"the export needs more than {MAX_FOLDERS} folders",
                field="partition_by",
                remedy="partition by fewer columns, or select fewer rows",
            )
        return self._folder / folder / (self._numbered_name(number) if self._is_split else self._dest.name)

    def _numbered_name(self, number: int) -> str:
        return f"{self._stem}-{number:05d}{self._suffix}"

    def _close(self) -> None:
        if self._writer is not None:
            self._run.lease.check()
            file = self._writer.commit()
            self.done.append(dataclasses.replace(file, preview=[]) if self._plan.partition_by and self.done else file)
            self._writer = None

    def publish(self, rows: int, kinds: dict[str, str]) -> ExportResult:
        """Move everything to its final name."""
        failpoint("sql.export.before_publish")
        self._close()
        self._run.lease.check()
        with disk_errors(self._plan.dest):
            if self._plan.partition_by or self._is_split:
                self._publish_files()
            for folder in (*self._recorded_attempts, self._folder):
                _remove(folder)
            self._remove_attempts_folder()
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

    def _publish_files(self) -> None:
        """Publish the files; delete those a killed attempt published that no longer have rows."""
        names = {str(Path(file.path).relative_to(self._folder)) for file in self.done}
        if self.done:
            self._record_published(sorted(names | self._published_earlier))
        self.done = [self._move_into_place(file) for file in self.done]
        for name in sorted(self._published_earlier - names):
            self._run.lease.check()
            (self._dest.parent / name).unlink(missing_ok=True)
            failpoint("sql.export.after_remove")
        if self._is_split:
            for folder in self._counts:
                self._remove_surplus(folder)

    def _record_published(self, names: list[str]) -> None:
        record = PartFile(self._folder / _PUBLISHED, self.token)
        record.open()
        record.write(json.dumps(names).encode())
        record.commit()
        failpoint("sql.export.after_record")

    def _move_into_place(self, file: Dataset) -> Dataset:
        target = self._dest.parent / Path(file.path).relative_to(self._folder)
        if Path(file.path).stat().st_size != file.bytes:
            raise IntegrityError(
                f"the temporary file of {target} changed after it was written",
                remedy="check for another process that writes to it, then retry",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(file.path).replace(target)
        failpoint("sql.export.after_move")
        return dataclasses.replace(file, path=str(target))

    def _remove_surplus(self, folder: str) -> None:
        """Delete files of an earlier run that wrote more of them."""
        numbered = re.compile(re.escape(self._stem) + r"-(\d{5,})" + re.escape(self._suffix))
        for path in (self._dest.parent / folder).iterdir():
            found = numbered.fullmatch(path.name)
            if found and int(found[1]) > self._counts.get(folder, 0):
                self._run.lease.check()
                path.unlink()


def _remove(path: Path) -> None:
    """Remove what an attempt left; a zombie that still writes to it removes that itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
