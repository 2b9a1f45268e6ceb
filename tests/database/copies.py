"""CSV files that a database reads itself, against the parser."""

from __future__ import annotations

import random
from collections.abc import Sequence

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.database.dialects.model import CsvFile
from flowrunner_provider.database.hook import hook_for
from flowrunner_provider.database.identifiers import TableName
from tests.database.far_side import CONN_ID, FarSide

__all__ = ["check_copies"]


def check_copies(far: FarSide, alphabet: Sequence[str], *, files: int, longest: int) -> None:
    """Random files for a table ``t`` with the texts ``a`` and ``b``: the same rows, or left to the parser."""
    draw = random.Random(7)
    table = TableName.parse(far.name("t"))
    passed, equal = 0, 0
    with hook_for(CONN_ID).open(Deadline(60)) as session:
        for number in range(files):
            text = "a,b" + draw.choice(["\n", "\r\n"]) + "".join(draw.choices(alphabet, k=draw.randint(0, longest)))
            path = far.write(f"{number % 3}.csv", draw.choice(["", "\ufeff"]) + text)
            null_text = draw.choice([None, ""])
            session.begin()
            file = CsvFile(path=path, width=2, delimiter=",", encoding="utf-8-sig", null_text=null_text)
            copied = session.copy_file(table, ["a", "b"], file, lambda lines: None)
            if copied is not None:
                with open_rows(path, null_text=null_text) as rows:
                    parsed = [row for batch in rows for row in batch]
                assert session.run(f"SELECT a, b FROM {session.sql(table)}") == parsed, text
                assert copied == (len(parsed), len(parsed))
                passed, equal = passed + 1, equal + bool(parsed)
            session.rollback()
    assert passed > 40
    assert equal > 10
