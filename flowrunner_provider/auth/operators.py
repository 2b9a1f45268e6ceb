"""Operators that look after connections: do they work, and how long will they?"""

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

_AT_ONCE = 8
_HOOKS = {conn_type: path for connector in CONNECTORS for conn_type, path in connector.hooks}
_HOOKS["ssh"] = _HOOKS["sftp"]


class ConnectionCheckOperator(FlowRunnerOperator):
    """Every connection has been tried from this worker and answered, or the task fails naming each that did not.

    Nothing is changed, so that a killed or retried attempt just checks again. Each check is the connection's own
    ``test_connection()``: ours for the types that FlowRunner has a hook for, else that of Airflow's hook; eight at
    a time. A connection that is not defined, or whose hook has no test, is a finding like any other.

    :param conn_ids: the connections to check.
    :param fail_on: ``any``: fail if one does not work; ``all``: only if none does.
    :param check_timeout: for one connection; what takes longer counts as failed.
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
        for start in range(0, len(checks), _AT_ONCE):
            wave, deadline = checks[start : start + _AT_ONCE], run.deadline.sub(seconds)
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
            raise _broken(bad, report, retryable=any(check.may_recover for check in checks))
        return report


class _Check(threading.Thread):
    """One test in a thread of its own, which does not keep the process alive when it hangs."""

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
                f"{type(hook).__name__} has no connection test", field="conn_ids", remedy="leave it out of conn_ids"
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
            message += " -> check the connection's fields; the message is its provider's own"
        return ConnectionFinding(conn_id=self.conn_id, conn_type=self.conn_type, ok=ok, message=message)


def _broken(bad: Mapping[str, str], report: ConnectionReport, *, retryable: bool) -> FlowRunnerError:
    each = "; ".join(f"{name!r}: {message}" for name, message in bad.items())
    text = f"{report.failed} of {report.failed + report.ok} connections do not work: {each}"
    if not retryable:
        return ConfigError(text, field="conn_ids", remedy="correct them under Admin > Connections")
    return PartialFailure(text, done=report.ok, failed=bad, remedy="do what each message says")


def _hook_class(path: str) -> type[FlowRunnerHook[Any]]:
    module, _, name = path.rpartition(".")
    found: type[FlowRunnerHook[Any]] = getattr(importlib.import_module(module), name)
    return found


def _names(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) and name for name in value):
        raise ConfigError("conn_ids names no connection", field="conn_ids", remedy="give a list of connection ids")
    return list(dict.fromkeys(value))


def _positive(value: Any, field: str) -> float:
    seconds = parse_duration(value, field).total_seconds()
    if seconds <= 0:
        raise ConfigError(f"{field} must be positive", field=field, remedy="write '60s', say")
    return seconds


class CredentialExpiryOperator(FlowRunnerOperator):
    """Every target has been read and lasts for ``fail_days`` at least, or the task fails naming each that does not.

    Nothing is changed, so that a killed or retried attempt just looks again; what cannot be read counts as failed,
    never as good. One row per thing that ends, the next to end first: rows in the state ``warn`` are for a notifier.
    A server costs two TLS handshakes and no request. Not seen: what needs STARTTLS, and the secrets and
    certificates of Entra apps, which only Microsoft Graph knows.

    :param targets: mappings: ``{"kind": "tls_cert", "host": "api.example.com:443"}``, ``{"kind": "jwt", "conn_id":
        ..., "field": "password"}`` (``exp`` as the token says, its signature is not checked), ``{"kind": "ssh_key",
        "conn_id": ...}`` (the OpenSSH certificate beside the key file; a bare key has no end), ``{"kind":
        "client_cert", "conn_id": ...}`` (the connection's ``cert_file``).
    :param warn_days: fewer days left than these are worth a warning.
    :param fail_days: fewer days left than these fail the task.
    :param target_timeout: for one target.
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
        from flowrunner_provider.auth.expiry import failed, rated

        targets = self._targets()
        seconds = _positive(self.target_timeout, "target_timeout")
        rows: list[ExpiryRow] = []
        errors: list[FlowRunnerError] = []
        for target in targets:
            try:
                found = await _look(target, run.deadline.sub(seconds))
            except FlowRunnerError as error:
                errors.append(error)
                rows.append(failed(target.name, target.kind, error))
                continue
            rows += [
                rated(target.name, one, now=run.clock.now(), warn_days=self.warn_days, fail_days=self.fail_days)
                for one in found
            ]
        rows.sort(key=lambda row: (row.state != "fail" or row.days_left is not None, _days(row)))
        for row in rows:
            self.log.info("%-4s %s %s: %s %s", row.state, row.kind, row.target, row.expires or "no end", row.note)
        states = [row.state for row in rows]
        report = ExpiryReport(rows=rows, ok=states.count("ok"), warn=states.count("warn"), fail=states.count("fail"))
        if report.fail:
            raise _ending(report, errors)
        return report

    def _targets(self) -> list[ExpiryTarget]:
        from flowrunner_provider.auth.expiry import ExpiryTarget, Kind

        given: Any = self.targets
        if not isinstance(given, list | tuple) or not given or not all(isinstance(one, Mapping) for one in given):
            raise ConfigError("there are no targets", field="targets", remedy='write [{"kind": "jwt", "conn_id": ...}]')
        for name in ("warn_days", "fail_days"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 36500:
                raise ConfigError(f"{name} is not a number of days", field=name, remedy="write 30, say")
        if self.fail_days > self.warn_days:
            raise ConfigError("fail_days is above warn_days", field="fail_days", remedy="warn before you fail")
        for one in given:
            if one.get("kind") not in get_args(Kind):
                raise ConfigError(
                    f"a target is of kind {str(one.get('kind'))[:40]!r}",
                    field="targets",
                    remedy=f"choose from {', '.join(get_args(Kind))}; Entra app secrets need Microsoft Graph",
                )
        return [from_mapping(ExpiryTarget, one, where="a target") for one in given]


def _days(row: ExpiryRow) -> float:
    return float("inf") if row.days_left is None else row.days_left


async def _look(target: ExpiryTarget, deadline: Deadline) -> list[Expiry]:
    from flowrunner_provider.auth.expiry import (
        certificates_expire,
        read_certificates,
        ssh_expires,
        tls_expires,
        token_expires,
    )

    if target.kind == "tls_cert":
        host, port = target.address()
        return await tls_expires(host, port, ca_file=target.ca_file, deadline=deadline)
    if target.kind == "jwt":
        return [token_expires(_secret(target.conn_id, target.field))]
    config = _config(target.conn_id)
    field = "cert_file" if target.kind == "client_cert" else "key_file"
    path, text = getattr(config, field, None), getattr(config, "private_key", None) or ""
    if target.kind == "client_cert" and path:
        return certificates_expire("client_cert", read_certificates(Path(path)))
    if target.kind == "ssh_key" and (path or text):
        return ssh_expires([Path(path)] if path else [], text)
    raise ConfigError(
        f"connection {target.conn_id!r} has no {field}", field="targets", remedy=f"set its {field}, or drop the target"
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
            remedy=f"use one of {', '.join(sorted(_HOOKS))}",
        )
    return _hook_class(path)(conn_id).config


def _ending(report: ExpiryReport, errors: Sequence[FlowRunnerError]) -> FlowRunnerError:
    bad = {
        f"{row.kind} {row.target}": row.note
        if row.expires is None
        else f"ends {row.expires} ({row.days_left} days left)"
        for row in report.rows
        if row.state == "fail"
    }
    text = "credentials end or cannot be read: " + "; ".join(f"{name}: {why}" for name, why in bad.items())
    if len(errors) == len(report.rows) and all(isinstance(error, ConfigError) for error in errors):
        return ConfigError(text, field="targets", remedy="correct the targets and their connections")
    retryable = any(isinstance(error, TransientError) for error in errors)
    return PartialFailure(
        text,
        done=report.ok + report.warn,
        failed=bad,
        retryable=retryable,
        remedy="renew each of them, put it into its connection, and clear this task",
    )
