"""Base class of all hooks: reads a connection into one frozen dataclass and validates it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError
from flowrunner_provider.core.spec import from_mapping, secret_fields
from flowrunner_provider.registry import CONNECTORS
from flowrunner_provider.runtime.masking import mask, mask_sensitive, masking_async, redact, redact_error

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerHook", "aconnection", "connection", "extra_of", "options_of"]

C = TypeVar("C")

_OWN_TYPES = {name for connector in CONNECTORS for name in connector.owns}
"""Our own connection types: their form fields are stored directly in the extra."""

_SERVICES: dict[str | None, tuple[str, ...]] = {"aws": ("s3", "ses", "sns")}
"""Connection types used for several services, each with its own options."""

OPTIONS = "flowrunner"
"""Key of a connection's extra that holds our options; they are never sent anywhere."""


def connection(conn_id: str) -> Connection:
    """Return the connection ``conn_id`` with its secrets masked.

    :raises ConfigError: if it is not defined.
    """
    with _look_up(conn_id):
        found = BaseHook.get_connection(conn_id)
    return _masked(found)


async def aconnection(conn_id: str) -> Connection:
    """Like :func:`connection`, without blocking the triggerer's event loop."""
    with _look_up(conn_id):
        found = await BaseHook.aget_connection(conn_id)
    return _masked(found)


@contextmanager
def _look_up(conn_id: str) -> Iterator[None]:
    try:
        yield
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"connection {conn_id!r} is not defined",
            field="conn_id",
            remedy=f"create it under Admin > Connections, with `airflow connections add {conn_id} ...`, "
            f"or as AIRFLOW_CONN_{conn_id.upper()}",
        ) from error
    except (AirflowException, ValueError) as error:
        raise ConfigError(
            f"connection {conn_id!r} cannot be read ({type(error).__name__})",
            field="conn_id",
            remedy="correct its URI or JSON form",
        ) from error


def _masked(found: Connection) -> Connection:
    mask([found.password])
    extra = extra_of(found)
    if isinstance(options := extra.get(OPTIONS), dict):  # `auth` there is the name of a method, no secret
        extra[OPTIONS] = {name: value for name, value in options.items() if name != "auth"}
    mask_sensitive(extra)
    return found


def extra_of(found: Connection) -> dict[str, Any]:
    """Return the connection's extra as a dict, empty if it has none.

    :raises ConfigError: if it is not a JSON object.
    """
    try:
        extra = json.loads(found.extra) if found.extra else {}
    except ValueError as error:
        raise ConfigError(
            f"connection {found.conn_id!r}: extra is not JSON",
            field="extra",
            remedy='use a JSON object, e.g. {"flowrunner": {"rate_limit": "100/minute"}}',
        ) from error
    if not isinstance(extra, dict):
        raise ConfigError(
            f"connection {found.conn_id!r}: extra must be a JSON object, not {type(extra).__name__}",
            field="extra",
            remedy="use a JSON object: {...}",
        )
    return extra


def options_of(found: Connection, service: str = "") -> dict[str, Any]:
    """Return our options: the ``flowrunner`` key of the extra.

    :param service: the service for which the connection is read. Its own section overrides the shared options, and the
        sections of other services are ignored.
    :raises ConfigError: if the options are not a JSON object.
    """
    options = _object(found, extra_of(found).get(OPTIONS, {}), OPTIONS)
    services = _SERVICES.get(found.conn_type, ())
    own = _object(found, options.get(service, {}), service) if service in services else {}
    return {**{name: value for name, value in options.items() if name not in services}, **own}


def _object(found: Connection, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            f"connection {found.conn_id!r}: the extra's {name!r} must be an object, not {type(value).__name__}",
            field=name,
            remedy='use {"flowrunner": {"option": "value"}}',
        )
    return value


class FlowRunnerHook(BaseHook, Generic[C]):
    """Reads a connection into ``config_type``, and tests it.

    Subclasses set ``config_type`` and the connection types they read. They override :meth:`values` if the standard
    fields (host, port, login, password, schema) need conversion.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "conn_id"
    default_conn_name: ClassVar[str] = ""
    conn_type: ClassVar[str] = ""
    hook_name: ClassVar[str] = ""
    config_type: ClassVar[type]
    reads: ClassVar[tuple[str, ...]] = ()
    """Accepted connection types; the secrets of any other type must not be sent to this server. Empty if the hook is
    chosen by type, or accepts any type."""
    service: ClassVar[str] = ""
    """Service of a shared connection type; see :func:`options_of`."""

    def __init__(self, conn_id: str = "") -> None:
        super().__init__()
        self.conn_id = conn_id or self.default_conn_name

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the values for ``config_type``: the standard fields that are set, and our options."""
        standard = {
            "host": found.host,
            "port": found.port,
            "login": found.login,
            "password": found.password,
            "schema": found.schema,
        }
        known = {field.name for field in dataclasses.fields(cls.config_type)}
        extra = extra_of(found) if found.conn_type in _OWN_TYPES else {}
        return {
            **{name: value for name, value in standard.items() if value not in (None, "") and name in known},
            **{name: value for name, value in extra.items() if value not in (None, "") and name != OPTIONS},
            **options_of(found, cls.service),
        }

    @cached_property
    def config(self) -> C:
        """The validated connection.

        :raises ConfigError: naming the field to correct.
        """
        return self._read(connection(self.conn_id))

    async def aload(self) -> None:
        """Read :attr:`config` without blocking the event loop."""
        async with masking_async():
            self.config = self._read(await aconnection(self.conn_id))

    def _read(self, found: Connection) -> C:
        if self.reads and found.conn_type not in self.reads:
            raise ConfigError(
                f"connection {found.conn_id!r} is of type {found.conn_type!r}",
                field="conn_type",
                remedy=f"use a connection of type {' or '.join(self.reads)}",
            )
        config: Any = from_mapping(self.config_type, self.values(found), where=f"connection {self.conn_id!r}")
        mask(str(getattr(config, name) or "") for name in secret_fields(self.config_type))
        return cast("C", config)

    def check(self) -> str:
        """Contact the server with the credentials; return one sentence about the result.

        :raises FlowRunnerError: with the reason and a remedy.
        """
        raise ConfigError(f"{type(self).__name__} has no connection test", field="conn_type")

    def test_connection(self) -> tuple[bool, str]:
        """Run Airflow's connection test: return success, and one actionable sentence without secrets."""
        try:
            return True, redact(self.check())
        except FlowRunnerError as error:
            redact_error(error)
            return False, str(error)
