"""Memory stays flat whatever the size of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import resource, sys
from pathlib import Path
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.convert import convert
from flowrunner_provider.data.dataset import Dataset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
result = convert(Dataset.from_value(sys.argv[1]), Path(sys.argv[2]), "csv", Run.alone())
print(result.rows, peak() - before)
"""


@pytest.mark.slow
def test_200_mb_of_json_lines_in_60_mb(tmp_path: Path) -> None:
    line = json.dumps({"id": 1, "name": "x" * 150, "share": 0.123456789, "ok": True, "tags": ["a", "b"]}) + "\n"
    rows = 200_000_000 // len(line)
    with (tmp_path / "a.jsonl").open("w") as file:
        for start in range(0, rows, 10_000):
            file.write(line * min(10_000, rows - start))
    child = [sys.executable, "-c", CHILD, str(tmp_path / "a.jsonl"), str(tmp_path / "a.csv")]
    written, grown = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()
    assert int(written) == rows
    assert float(grown) < 60
