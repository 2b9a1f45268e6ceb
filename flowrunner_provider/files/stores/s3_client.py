"""The low-level S3 client of boto3, called in threads; its errors typed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    MissingCredential,
    PermanentError,
    TimedOut,
)
from flowrunner_provider.files.stores.object_errors import refusal, status_of

__all__ = ["S3Client", "client_errors"]


class S3Client:
    """A boto3 client and the threads that it is called in.

    :param client: ``session.client("s3")``; boto3's clients may be used by several threads.
    """

    def __init__(self, client: Any, threads: ThreadPoolExecutor) -> None:
        self._client, self._threads = client, threads

    async def call(self, what: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """One request, with the library's own repetitions.

        :param what: what is being done, on what; for messages.
        :param operation: a method of the client, e.g. ``head_bucket``.
        """
        step: Callable[[], dict[str, Any]] = partial(getattr(self._client, operation), **arguments)
        with client_errors(what):
            return await asyncio.get_running_loop().run_in_executor(self._threads, step)


@contextmanager
def client_errors(what: str) -> Iterator[None]:
    """Errors of botocore as ours."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        status, code = status_of(error)
        raise refusal(what, status, code) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
        raise MissingCredential(
            f"{what}: there are no credentials",
            field="login",
            remedy="put an access key into login and password, or a role_arn or profile_name into the extra",
        ) from None
    except exceptions.SSLError:
        raise ConfigError(
            f"{what}: the server's certificate is not trusted",
            field="ca_bundle",
            remedy="name the CA's file as ca_bundle in the connection's flowrunner extra",
        ) from None
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError):
        raise TimedOut(f"{what}: no answer in time", remedy="raise timeout, or look at the network") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError):
        raise ConnectionLost(f"{what}: the connection failed", remedy="check host, port and network") from None
    except exceptions.BotoCoreError as error:
        raise PermanentError(f"{what}: {type(error).__name__}", remedy="check the connection's settings") from None
