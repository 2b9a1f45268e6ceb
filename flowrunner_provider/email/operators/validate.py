"""The operator that validates email addresses."""

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
    """On success, every row is in exactly one of two files: ``valid``, or ``invalid`` with the reason.

    A killed or retried task starts over; neither file appears under its final name before it is complete. Addresses are
    checked against the syntax that ``email.send`` accepts (RFC 5321 with internationalised addresses), then against the
    domain lists. The row counts of the two files add up to that of ``source``. Constant memory.

    :param source: a list of addresses, a dataset returned by an upstream task, or the path of a .jsonl, .csv or
        .parquet file on a disk that the workers share.
    :param valid: file for rows with a valid address, .jsonl, .csv or .parquet; the address is normalised.
    :param invalid: file for all other rows, with the additional column ``invalid_reason``.
    :param column: the column with the address; a plain list becomes a column of this name.
    :param allow_domains: accept only these domains; ``*.example.com`` stands for all subdomains.
    :param deny_domains: refuse these domains.
    :param check_dns: also check in the DNS, once per domain, that the domain accepts mail. If the DNS does not answer,
        the address counts as valid.
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
        """Check every row and write it to one of the two files."""
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
