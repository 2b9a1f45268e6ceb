"""Operators that check connections and the expiry of credentials."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from flowrunner_provider.auth.results import ConnectionFinding, ConnectionReport, ExpiryReport, ExpiryRow
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, PartialFailure, TransientError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping, parse_duration
from flowrunner_provider.registry import CONNECTORS
from flowrunner_provider.runtime.boundary import outcome_of
from flowrunner_provider.runtime.masking import redact
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.auth.expiry import Expiry, ExpiryTarget
    from flowrunner_provider.core.deadline import Deadline
    from flowrunner_provider.runtime.hook import FlowRunnerHook

__all__ = ["ConnectionCheckOperator", "ConnectionFinding", "ConnectionReport", "CredentialExpiryOperator"]

_PARALLEL = 8
_HOOKS = {conn_type: path for connector in CONNECTORS for conn_type, path in connector.hooks}
_HOOKS["ssh"] = _HOOKS["sftp"]


class ConnectionCheckOperator(FlowRunnerOperator):
    """On success, every connection was tested from this worker and works; otherwise the task fails and lists each
    failure.

    A killed or retried task runs all tests again; nothing is modified. Each test is the connection's own
    ``test_connection()``, from FlowRunner's hook for the type if there is one and otherwise from Airflow's; eight run
    in parallel. An undefined connection, or one whose hook has no test, counts as a failure.

    :param conn_ids: ids of the connections to test.
    :param fail_on: ``any``: fail if at least one connection fails; ``all``: fail only if every connection fails.
    :param check_timeout: timeout per connection, e.g. ``60s``; a slower test counts as failed.
    """

    action: ClassVar[str] = "auth.check_connection"
    template_fields: Sequence[str] = ("conn_ids",)

    def __init__(
        self,
        *,
        conn_ids: list[str],
        fail_on: Literal["any", "all"] = "any",
        check_timeout: str | float | timedelta = "60s",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_ids, self.fail_on, self.check_timeout = conn_ids, fail_on, check_timeout

    def perform(self, run: Run) -> ConnectionReport:
        names = _names(self.conn_ids)
        if self.fail_on not in ("any", "all"):
            raise ConfigError(f"fail_on is {self.fail_on!r}", field="fail_on", remedy="write 'any' or 'all'")
        seconds = _positive(self.check_timeout, "check_timeout")
        checks = [_Check(name) for name in names]
        for start in range(0, len(checks), _PARALLEL):
            wave, deadline = checks[start : start + _PARALLEL], run.deadline.sub(seconds)
            for check in wave:
                check.start()
            for check in wave:
                check.join(deadline.remaining())
        found = [check.finding(seconds) for check in checks]
        for finding in found:
            self.log.info("%s %s: %s", "ok    " if finding.ok else "failed", finding.conn_id, finding.message)
        bad = {finding.conn_id: finding.message for finding in found if not finding.ok}
        report = ConnectionReport(connections=found, ok=len(found) - len(bad), failed=len(bad))
        if bad and (self.fail_on == "any" or len(bad) == len(found)):
            raise _failure(bad, report, retryable=any(check.may_recover for check in checks))
        return report


class _Check(threading.Thread):
    """One connection test in its own daemon thread, so that a hanging test does not keep the process alive."""

    def __init__(self, conn_id: str) -> None:
        super().__init__(name=f"check-{conn_id}", daemon=True)
        self.conn_id, self.conn_type = conn_id, ""
        self.may_recover = True
        self._result: tuple[bool, str] | FlowRunnerError | None = None

    def run(self) -> None:
        self._result = outcome_of(self._test)

    def _test(self) -> tuple[bool, str]:
        from flowrunner_provider.runtime.hook import connection

        try:
            found = connection(self.conn_id)
        except ConfigError:
            self.may_recover = False
            raise
        self.conn_type = found.conn_type or ""
        path, theirs = _HOOKS.get(self.conn_type), cast("Any", found)
        hook: Any = _hook_class(path)(self.conn_id) if path else theirs.get_hook()
        if not hasattr(hook, "test_connection"):
            self.may_recover = False
            raise ConfigError(
                f"{type(hook).__name__} has no connection test", field="conn_ids", remedy="remove it from conn_ids"
            )
        ok, message = hook.test_connection()
        return bool(ok), redact(" ".join(str(message).split()))[:500]

    def finding(self, seconds: float) -> ConnectionFinding:
        result = self._result
        if result is None:
            ok, message = False, f"no answer within {seconds:g} s -> check host and firewall, or raise check_timeout"
        elif isinstance(result, FlowRunnerError):
            ok, message = False, str(result)
        else:
            ok, message = result
        if not ok and " -> " not in message:
            message += " -> check the connection's fields; this message comes from its provider"
        return ConnectionFinding(conn_id=self.conn_id, conn_type=self.conn_type, ok=ok, message=message)


def _failure(bad: Mapping[str, str], report: ConnectionReport, *, retryable: bool) -> FlowRunnerError:
    reasons = "; ".join(f"{name!r}: {message}" for name, message in bad.items())
    text = f"{report.failed} of {report.failed + report.ok} connections failed: {reasons}"
    if not retryable:
        return ConfigError(text, field="conn_ids", remedy="correct the connections under Admin > Connections")
    return PartialFailure(text, done=report.ok, failed=bad, remedy="follow the remedy in each message")


def _hook_class(path: str) -> type[FlowRunnerHook[Any]]:
    module, _, name = path.rpartition(".")
    found: type[FlowRunnerHook[Any]] = getattr(importlib.import_module(module), name)
    return found


def _names(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) and name for name in value):
        raise ConfigError("conn_ids is empty or malformed", field="conn_ids", remedy="pass a list of connection ids")
    return list(dict.fromkeys(value))


def _positive(value: Any, field: str) -> float:
    seconds = parse_duration(value, field).total_seconds()
    if seconds <= 0:
        raise ConfigError(f"{field} must be positive", field=field, remedy="use e.g. '60s'")
    return seconds


class CredentialExpiryOperator(FlowRunnerOperator):
    """On success, every target was read and is valid for at least ``fail_days``; otherwise the task fails and lists
    each failure.

    A killed or retried task reads all targets again; nothing is modified. A target that cannot be read counts as
    failed. The report has one row per credential, the next to expire first; rows with state ``warn`` are meant for a
    notifier. A server costs two TLS handshakes and no request. Not covered: servers that need STARTTLS, and secrets and
    certificates of Entra apps, which only Microsoft Graph can list.

    :param targets: mappings such as ``{"kind": "tls_cert", "host": "api.example.com:443"}``, ``{"kind": "jwt",
        "conn_id": ..., "field": "password"}`` (reads ``exp`` without checking the signature), ``{"kind": "ssh_key",
        "conn_id": ...}`` (the OpenSSH certificate beside the key file; a bare key never expires), ``{"kind":
        "client_cert", "conn_id": ...}`` (the connection's ``cert_file``).
    :param warn_days: report ``warn`` if fewer days are left.
    :param fail_days: fail the task if fewer days are left.
    :param target_timeout: timeout per target, e.g. ``30s``.
    """

    action: ClassVar[str] = "auth.check_expiry"
    template_fields: Sequence[str] = ("targets",)

    def __init__(
        self,
        *,
        targets: list[dict[str, str]],
        warn_days: float = 30,
        fail_days: float = 7,
        target_timeout: str | float | timedelta = "30s",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.targets, self.target_timeout = targets, target_timeout
        self.warn_days, self.fail_days = warn_days, fail_days

    async def perform(self, run: Run) -> ExpiryReport:
        from flowrunner_provider.auth.expiry import rate, unreadable

        targets = self._targets()
        seconds = _positive(self.target_timeout, "target_timeout")
        rows: list[ExpiryRow] = []
        errors: list[FlowRunnerError] = []
        for target in targets:
            try:
                found = await _read_expiries(target, run.deadline.sub(seconds))
            except FlowRunnerError as error:
                errors.append(error)
                rows.append(unreadable(target.name, target.kind, error))
                continue
            rows += [
                rate(target.name, expiry, now=run.clock.now(), warn_days=self.warn_days, fail_days=self.fail_days)
                for expiry in found
            ]
        rows.sort(key=lambda row: (row.state != "fail" or row.days_left is not None, _sort_days(row)))
        for row in rows:
            self.log.info("%-4s %s %s: %s %s", row.state, row.kind, row.target, row.expires or "-", row.note)
        states = [row.state for row in rows]
        report = ExpiryReport(rows=rows, ok=states.count("ok"), warn=states.count("warn"), fail=states.count("fail"))
        if report.fail:
            raise _expiry_failure(report, errors)
        return report

    def _targets(self) -> list[ExpiryTarget]:
        from flowrunner_provider.auth.expiry import ExpiryTarget, Kind

        given: Any = self.targets
        if not isinstance(given, list | tuple) or not given or not all(isinstance(target, Mapping) for target in given):
            raise ConfigError(
                "targets is empty or malformed", field="targets", remedy='use [{"kind": "jwt", "conn_id": ...}]'
            )
        for name in ("warn_days", "fail_days"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 36500:
                raise ConfigError(f"{name} is not a number of days", field=name, remedy="use e.g. 30")
        if self.fail_days > self.warn_days:
            raise ConfigError(
                "fail_days is above warn_days", field="fail_days", remedy="set warn_days to at least fail_days"
            )
        for target in given:
            if target.get("kind") not in get_args(Kind):
                raise ConfigError(
                    f"unknown target kind {str(target.get('kind'))[:40]!r}",
                    field="targets",
                    remedy=f"choose from {', '.join(get_args(Kind))}; Entra app secrets need Microsoft Graph",
                )
        return [from_mapping(ExpiryTarget, target, where="a target") for target in given]


def _sort_days(row: ExpiryRow) -> float:
    return float("inf") if row.days_left is None else row.days_left


async def _read_expiries(target: ExpiryTarget, deadline: Deadline) -> list[Expiry]:
    from flowrunner_provider.auth.expiry import (
        certificate_expiries,
        read_certificates,
        ssh_expiries,
        tls_expiries,
        token_expiry,
    )

    if target.kind == "tls_cert":
        host, port = target.address()
        return await tls_expiries(host, port, ca_file=target.ca_file, deadline=deadline)
    if target.kind == "jwt":
        return [token_expiry(_secret(target.conn_id, target.field))]
    config = _config(target.conn_id)
    field = "cert_file" if target.kind == "client_cert" else "key_file"
    path, text = getattr(config, field, None), getattr(config, "private_key", None) or ""
    if target.kind == "client_cert" and path:
        return certificate_expiries("client_cert", read_certificates(Path(path)))
    if target.kind == "ssh_key" and (path or text):
        return ssh_expiries([Path(path)] if path else [], text)
    raise ConfigError(
        f"connection {target.conn_id!r} has no {field}",
        field="targets",
        remedy=f"set its {field}, or remove the target",
    )


def _secret(conn_id: str, field: str) -> str:
    from flowrunner_provider.runtime.hook import connection, extra_of, options_of

    found = connection(conn_id)
    value = found.password if field == "password" else {**extra_of(found), **options_of(found)}.get(field)
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"connection {conn_id!r} has no {field!r}", field="targets", remedy="correct the target's `field`"
        )
    return value


def _config(conn_id: str) -> Any:
    from flowrunner_provider.runtime.hook import connection

    found = connection(conn_id)
    path = _HOOKS.get(found.conn_type or "")
    if path is None:
        raise ConfigError(
            f"connection {conn_id!r} is of type {found.conn_type!r}",
            field="targets",
            remedy=f"use one of the types {', '.join(sorted(_HOOKS))}",
        )
    return _hook_class(path)(conn_id).config


def _expiry_failure(report: ExpiryReport, errors: Sequence[FlowRunnerError]) -> FlowRunnerError:
    bad = {
        f"{row.kind} {row.target}": row.note
        if row.expires is None
        else f"expires {row.expires} ({row.days_left} days left)"
        for row in report.rows
        if row.state == "fail"
    }
    text = "credentials expire or cannot be read: " + "; ".join(f"{name}: {why}" for name, why in bad.items())
    if len(errors) == len(report.rows) and all(isinstance(error, ConfigError) for error in errors):
        return ConfigError(text, field="targets", remedy="correct the targets and their connections")
    retryable = any(isinstance(error, TransientError) for error in errors)
    return PartialFailure(
        text,
        done=report.ok + report.warn,
        failed=bad,
        retryable=retryable,
        remedy="renew each credential, update its connection, and clear this task",
    )
