"""The address of a bucket, and the low-level S3 client of boto3, called in threads and with typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    MissingCredential,
    PermanentError,
    TimedOut,
)
from flowrunner_provider.files.stores.object_errors import refusal, status_of
from flowrunner_provider.files.stores.s3_answers import attach

if TYPE_CHECKING:
    from flowrunner_provider.files.config import S3Config

__all__ = ["THREADS", "S3Client", "S3Target", "client_errors", "connection_lost"]

THREADS = 16
_TRIES = 5

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class S3Target:
    """A bucket and how to connect to it.

    :param session: returns a boto3 session; called in a thread, as it may request the credentials of a role.
    :param client_config: the ``botocore.config.Config`` of the connection.
    """

    bucket: str
    config: S3Config
    session: Callable[[], Any]
    client_config: Any = None

    @property
    def style(self) -> str:
        """The position of the bucket name in URLs: ``path``, ``virtual`` or ``auto``."""
        style = self.config.addressing_style
        return style if style != "auto" or not self.config.endpoint_url else "path"

    @property
    def anonymous(self) -> bool:
        """Whether requests are sent unsigned."""
        from botocore import UNSIGNED

        return getattr(self.client_config, "signature_version", None) is UNSIGNED

    def client(self, session: Any, *, region: str = "", **more: Any) -> Any:
        """Return a low-level client of boto3; blocking.

        :param region: used if the connection names none.
        """
        from botocore.config import Config

        config = self.config
        settings = Config(
            s3={
                "addressing_style": self.style,
                **({"payload_signing_enabled": False} if config.unsigned_payload else {}),
            },
            request_checksum_calculation="when_required",  # ours are added explicitly
            response_checksum_validation="when_required",
            connect_timeout=config.conn_timeout,
            read_timeout=config.timeout,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            max_pool_connections=THREADS,
            **more,
        )
        client = session.client(
            "s3",
            region_name=config.region_name or region or None,
            endpoint_url=config.endpoint_url,
            verify=config.ca_bundle or config.verify,
            config=self.client_config.merge(settings) if self.client_config else settings,
        )
        attach(client)
        return client


class S3Client:
    """A boto3 client, created on first use because that takes long, and the threads that call it.

    :param session: a boto3 session; its clients are thread-safe.
    """

    def __init__(self, target: S3Target, session: Any, threads: ThreadPoolExecutor) -> None:
        self._target, self._session, self._threads = target, session, threads
        self._created: Any = None
        self._lock = Lock()

    def _client(self) -> Any:
        with self._lock:
            if self._created is None:
                self._created = self._target.client(self._session)
            return self._created

    async def run(self, what: str, work: Callable[[Any], T]) -> T:
        """Run ``work`` with the client in a thread.

        :param what: the operation and its object, for messages.
        """
        with client_errors(what):
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._client()))

    async def call(self, what: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send one request, with the retries of the library.

        :param operation: a method of the client, e.g. ``head_bucket``.
        """
        answer: dict[str, Any] = await self.run(what, lambda client: getattr(client, operation)(**arguments))
        return answer

    async def read(self, what: str, most: int, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        """Call ``get_object`` and read its body once, without resuming a broken connection.

        :param most: the bytes requested.
        """

        def work(client: Any) -> tuple[dict[str, Any], bytes]:
            answer: dict[str, Any] = client.get_object(**arguments)
            with closing(answer["Body"]) as body:
                return answer, body.read(most + 1)

        return await self.run(what, work)


@contextmanager
def client_errors(what: str) -> Iterator[None]:
    """Convert the errors of botocore."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        status, code = status_of(error)
        raise refusal(what, status, code) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
        raise MissingCredential(
            f"{what}: no credentials",
            field="login",
            remedy="set an access key as login and password, or role_arn or profile_name in the extra",
        ) from None
    except exceptions.SSLError:
        raise ConfigError(
            f"{what}: the server's certificate is not trusted",
            field="ca_bundle",
            remedy="set ca_bundle in the flowrunner extra of the connection to the file of the CA",
        ) from None
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError):
        raise TimedOut(f"{what}: no answer in time", remedy="raise timeout, or check the network") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise connection_lost(what, _server_of(error)) from None
    except exceptions.BotoCoreError as error:
        raise PermanentError(f"{what}: {type(error).__name__}", remedy="check the connection's settings") from None


def connection_lost(what: str, server: str) -> ConnectionLost:
    """Return the error of a connection that could not be established, or broke.

    :param server: host and port; empty if unknown.
    """
    to = f" to {server}" if server else ""
    return ConnectionLost(
        f"{what}: the connection{to} failed",
        remedy="check endpoint_url and region_name in the connection's extra, and the network",
    )


def _server_of(error: Any) -> str:
    """Return host and port of the URL that botocore's error names; its path and query stay hidden."""
    try:
        url = urlsplit(str(error.kwargs.get("endpoint_url") or ""))
        return f"{url.hostname}:{url.port}" if url.port else url.hostname or ""
    except ValueError:
        return ""
