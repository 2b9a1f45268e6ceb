"""The scratch folder of one run: every file the demo reads or writes lives below it.

The DAG finds the folder in the environment variable, and the Airflow Variable, ``FLOWRUNNER_DEMO_DIR``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENT", "Scratch"]

ENVIRONMENT = "FLOWRUNNER_DEMO_DIR"


@dataclass(frozen=True)
class Scratch:
    """Names of the places below ``root``; both sides of every check are found here."""

    root: Path

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def pages(self) -> Path:
        """What ``fetch`` leaves behind."""
        return self.staging / "airports.jsonl"

    @property
    def staged(self) -> Path:
        """What ``stage`` leaves behind: the file that is loaded, mailed and archived."""
        return self.staging / "airports.csv"

    @property
    def database(self) -> Path:
        return self.root / "warehouse.db"

    @property
    def mail(self) -> Path:
        """One ``.eml`` per message that the SMTP sink took."""
        return self.root / "mail"

    @property
    def sftp(self) -> Path:
        """The root folder that SFTP users see."""
        return self.root / "sftp"

    @property
    def archived(self) -> Path:
        """``sftp:/archive/airports.csv`` as it lies on the far side."""
        return self.sftp / "archive" / "airports.csv"

    @property
    def kills(self) -> Path:
        """One marker per kill that happened."""
        return self.root / "kills"

    @property
    def dags(self) -> Path:
        return self.root / "dags"

    @property
    def airflow_home(self) -> Path:
        return self.root / "airflow"

    @property
    def logs(self) -> Path:
        """Output of every process that the demo starts."""
        return self.root / "logs"

    def create(self) -> None:
        """Make the folders; those that exist stay."""
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
