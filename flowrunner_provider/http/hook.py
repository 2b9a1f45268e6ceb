"""The hook of ``http`` connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError, NotFound, Rejected
from flowrunner_provider.core.rate_limit import InBlocks, RateLimit
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.http.config import HttpConfig, flat_extra, secret_headers
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.http.settings import settings_of
from flowrunner_provider.runtime.hook import FlowRunnerHook, extra_of
from flowrunner_provider.runtime.masking import mask, mask_soon, masking_async
from flowrunner_provider.runtime.operator import run_to_end
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.runtime.secret_store import SecretStore
from flowrunner_provider.transport.http import HttpTransport

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerHttpHook"]

_TEST_SECONDS = 15.0
_NON_HTTP_TYPES = ("sftp", "ssh", "ftp", "ftps", "smtp", "imap", "postgres", "mysql", "mssql", "sqlite")
"""Connection types whose servers do not speak HTTP; any other type may."""


class FlowRunnerHttpHook(FlowRunnerHook[HttpConfig]):
    """Reads an Airflow connection of type ``http``; connections made for the official hook work unchanged.

    :param conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "http_conn_id"
    default_conn_name: ClassVar[str] = "http_default"
    conn_type: ClassVar[str] = "http"
    hook_name: ClassVar[str] = "HTTP"
    config_type: ClassVar[type] = HttpConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the standard fields and flat extras, overridden by the ``flowrunner`` options."""
        if found.conn_type in _NON_HTTP_TYPES:
            raise ConfigError(
                f"connection {found.conn_id!r} is of type {found.conn_type!r}",
                field="conn_type",
                remedy="use a connection of type http",
            )
        values = {**flat_extra(extra_of(found)), **super().values(found)}
        headers = values.get("headers", {})
        if isinstance(headers, dict):
            values["headers"] = {**flat_extra(extra_of(found)).get("headers", {}), **headers}
            probe = from_mapping(HttpConfig, {"headers": values["headers"]}, where="the connection")
            mask(secret_headers(probe))
        return values

    def transport(self, run: Run, *, mask_later: Mask = mask) -> HttpTransport:
        """Return a transport for this connection, with the rate limit that all tasks of the connection share.

        :param mask_later: called with secrets that appear later, such as tokens.
        :raises ConfigError: naming the field to correct.
        """
        config = self.config
        rotates = config.auth == "oauth2_refresh_token" and config.rotated_tokens == "file"
        settings = settings_of(config, store=SecretStore("oauth") if rotates else None, mask=mask_later)
        mask(settings.secrets)
        mask(settings.credentials.secrets())
        run.pacer = pacer_for(self.conn_id, config.rate_limit, config.burst)
        if config.rate_limit:
            run.pacer = InBlocks(run.pacer, RateLimit.parse(config.rate_limit, burst=config.burst), run.clock)
        return HttpTransport(settings, run)

    async def atransport(self, run: Run) -> HttpTransport:
        """Like :meth:`transport`, for the triggerer: reads the connection without blocking its event loop."""
        async with masking_async():
            await self.aload()
            return self.transport(run, mask_later=mask_soon)

    def check(self) -> str:
        """Send one authenticated request; without ``check_endpoint`` even a 404 proves that the server answers."""
        run = Run.alone(timeout=_TEST_SECONDS, retry=RetryPlan(attempts=1))
        transport = self.transport(run)
        return run_to_end(_probe(transport, self.config.check_endpoint), run.deadline)


async def _probe(transport: HttpTransport, endpoint: str) -> str:
    async with transport as http:
        try:
            answer = await http.request("GET", endpoint, timeout=_TEST_SECONDS)
        except (NotFound, Rejected) as error:
            if endpoint:
                raise
            return f"the server answers ({error.message}); set `check_endpoint` to test an existing endpoint"
    return f"GET {endpoint or '/'} was answered {answer.status}"
