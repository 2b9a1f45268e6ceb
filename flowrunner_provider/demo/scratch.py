"""The scratch folder of one run, which holds every file that the demo reads or writes.

The DAG finds it in the environment variable, and Airflow Variable, ``FLOWRUNNER_DEMO_DIR``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENT", "Scratch"]

ENVIRONMENT = "FLOWRUNNER_DEMO_DIR"


@dataclass(frozen=True)
class Scratch:
    """Paths below ``root``."""

    root: Path

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def pages(self) -> Path:
        """The output of ``fetch``."""
        return self.staging / "airports.jsonl"

    @property
    def staged(self) -> Path:
        """The output of ``stage``: the file that is loaded, mailed and archived."""
        return self.staging / "airports.csv"

    @property
    def database(self) -> Path:
        return self.root / "warehouse.db"

    @property
    def mail(self) -> Path:
        """One ``.eml`` per message that the SMTP sink accepted."""
        return self.root / "mail"

    @property
    def sftp(self) -> Path:
        """The root folder of SFTP users."""
        return self.root / "sftp"

    @property
    def archived(self) -> Path:
        """``/archive/airports.csv`` of the SFTP server."""
        return self.sftp / "archive" / "airports.csv"

    @property
    def kills(self) -> Path:
        """One marker file per kill."""
        return self.root / "kills"

    @property
    def dags(self) -> Path:
        return self.root / "dags"

    @property
    def airflow_home(self) -> Path:
        return self.root / "airflow"

    @property
    def logs(self) -> Path:
        """Output of all processes."""
        return self.root / "logs"

    def create(self) -> None:
        """Create missing folders."""
        for folder in (
            self.staging,
            self.mail,
            self.archived.parent,
            self.kills,
            self.dags,
            self.airflow_home,
            self.logs,
        ):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
