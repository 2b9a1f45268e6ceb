"""Separates valid from invalid email addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import format_of
from flowrunner_provider.data.writers import open_writer, part_token
from flowrunner_provider.email.batch.row_mail import parse_recipient
from flowrunner_provider.email.batch.rows import Row, RowSource
from flowrunner_provider.email.results import ValidateResult

__all__ = ["REASON", "Validator", "validate"]

REASON = "invalid_reason"
_BATCH = 2_000
_DNS_SECONDS = 10


class Validator:
    """Checks one address at a time.

    :param allow: accepted domains, ``*.example.com`` for all subdomains; empty for all.
    :param deny: refused domains.
    :param dns: check in the DNS whether the domain accepts mail.
    """

    def __init__(self, allow: Sequence[str], deny: Sequence[str], *, dns: bool) -> None:
        self._allow, self._deny = _domains(allow, "allow_domains"), _domains(deny, "deny_domains")
        self._dns: Callable[[str], str] | None = _deliverable() if dns else None

    def __call__(self, value: Any) -> tuple[str, str]:
        """Return the normalised address and the reason why it is invalid; one of them is empty."""
        text = "" if value is None else str(value).strip()
        if not text:
            return "", "there is no address"
        try:
            box = parse_recipient(text, "", "address")
        except ConfigError as error:
            return "", error.message
        if _matches(box.domain, self._deny):
            return "", f"the domain {box.domain} is denied"
        if self._allow and not _matches(box.domain, self._allow):
            return "", f"the domain {box.domain} is not allowed"
        reason = self._dns(box.address) if self._dns else ""
        return ("", reason) if reason else (box.address, "")


def _domains(values: Sequence[str], field: str) -> frozenset[str]:
    if isinstance(values, str) or not all(isinstance(value, str) and value.strip("*. ") for value in values):
        raise ConfigError(f"{field} must be a list of domains", field=field, remedy="write ['example.com']")
    return frozenset(value.strip().lower() for value in values)


def _matches(domain: str, patterns: frozenset[str]) -> bool:
    labels = domain.lower().split(".")
    above = (f"*.{'.'.join(labels[place:])}" for place in range(1, len(labels)))
    return ".".join(labels) in patterns or any(pattern in patterns for pattern in above)


def _deliverable() -> Callable[[str], str]:
    validator = load("email_validator", extra="email", needed_for="checking addresses")
    resolver = validator.caching_resolver(timeout=_DNS_SECONDS)

    def check(address: str) -> str:
        try:
            validator.validate_email(address, allow_quoted_local=True, dns_resolver=resolver)
        except validator.EmailNotValidError as error:
            return str(error)
        return ""

    return check


def validate(source: RowSource, column: str, check: Validator, valid: Path, invalid: Path, run: Run) -> ValidateResult:
    """Write every row to exactly one of the two files."""
    if REASON in source.columns:
        raise ConfigError(f"there is a column {REASON!r} already", field="source", remedy="rename it")
    token, columns = part_token(run.scope), source.columns
    progress = run.progress("check", unit="rows", total=source.total)
    with ExitStack() as stack:
        good = stack.enter_context(open_writer(valid, format_of(valid, "valid"), columns, token=token))
        bad = stack.enter_context(open_writer(invalid, format_of(invalid, "invalid"), [*columns, REASON], token=token))
        rows = 0
        for batch in _batches(source):
            run.deadline.check("checking the addresses")
            checked = [(row, *check(row.get(column))) for row in batch]
            good.write_records([{**row, column: address} for row, address, reason in checked if not reason])
            bad.write_records([{**row, REASON: reason} for row, _, reason in checked if reason])
            rows += len(batch)
            progress.advance(len(batch))
        if not rows == source.total == good.rows + bad.rows:
            raise IntegrityError(
                f"{source.total:,} rows were counted, {rows:,} came",
                remedy="keep the file as it is until the task has ended",
            )
        failpoint("email.validate.before_commit")
        valid_rows = good.commit()
        failpoint("email.validate.between_commits")
        result = ValidateResult(rows=rows, valid=valid_rows, invalid=bad.commit())
        failpoint("email.validate.after_commit")
    progress.finish()
    return result


def _batches(source: RowSource) -> Iterator[list[Row]]:
    rows = (row for _, row in source)
    while batch := list(islice(rows, _BATCH)):
        yield batch
