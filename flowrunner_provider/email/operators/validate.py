"""Addresses checked before anybody writes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset, format_of, local_path
from flowrunner_provider.email.results import ValidateResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["EmailValidateOperator"]


class EmailValidateOperator(FlowRunnerOperator):
    """Every row is in exactly one of two files: the one of good addresses, or the one of bad ones with the reason.

    Killed or retried, it begins again, and each file appears under its name only when it is whole. The syntax is
    checked as ``email.send`` does (RFC 5321, internationalised addresses included), then the domain against the
    lists. Counts add up. Constant memory.

    :param source: a list of addresses, or a dataset as an upstream task returned it, or the path of a .jsonl, .csv
        or .parquet file on a disk that the workers share.
    :param valid: the file for rows with a good address, .jsonl, .csv or .parquet: the row, its address normalised.
    :param invalid: the file for the others: the row, and ``invalid_reason``.
    :param column: the column with the address; it is also the name of the column that a list becomes.
    :param allow_domains: only these domains are good; ``*.example.com`` is every one below it.
    :param deny_domains: these are not.
    :param check_dns: also ask the DNS whether each domain takes mail, once per domain. When the DNS does not answer
        the address counts as good: nobody knows better.
    """

    action: ClassVar[str] = "email.validate"
    template_fields: Sequence[str] = ("source", "valid", "invalid", "column", "allow_domains", "deny_domains")

    def __init__(
        self,
        *,
        source: Dataset | Mapping[str, Any] | list[str] | str,
        valid: str,
        invalid: str,
        column: str = "email",
        allow_domains: list[str] | None = None,
        deny_domains: list[str] | None = None,
        check_dns: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.column, self.valid, self.invalid = source, column, valid, invalid
        self.allow_domains, self.deny_domains, self.check_dns = allow_domains, deny_domains, check_dns

    def perform(self, run: Run) -> ValidateResult:
        """Judge every row."""
        from flowrunner_provider.email.batch.rows import RowSource
        from flowrunner_provider.email.validate import Validator, validate

        valid, invalid = local_path(self.valid, "valid"), local_path(self.invalid, "invalid")
        for path, field in ((valid, "valid"), (invalid, "invalid")):
            format_of(path, field)
        if valid == invalid:
            raise ConfigError("valid and invalid are one file", field="invalid", remedy="give it a file of its own")
        check = Validator(self.allow_domains or (), self.deny_domains or (), dns=self.check_dns)
        source: Any = self.source
        if isinstance(source, list | tuple):
            source = [value if isinstance(value, Mapping) else {self.column: value} for value in source]
        return validate(RowSource(source, "source", (self.column,)), self.column, check, valid, invalid, run)
