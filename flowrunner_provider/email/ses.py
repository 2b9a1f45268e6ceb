"""Amazon SES: ``SendEmail`` of its API v2 with the raw message; it has no client token and no lookup of sent mails.

So nobody knows the outcome of a request whose answer was lost, and ``on_unknown`` decides. SES accepts a message for
all recipients or for none, and replaces its Message-ID and Date; ours is kept in Original-Message-ID.
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
https://docs.aws.amazon.com/ses/latest/dg/header-fields.html
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    MissingCredential,
    OutcomeUnknown,
    Rejected,
    SecurityError,
    Throttled,
    TimedOut,
)
from flowrunner_provider.core.spec import option
from flowrunner_provider.email.config import OutgoingConfig
from flowrunner_provider.email.transport import Addressed, Capabilities, Refusal

__all__ = ["SesConfig", "SesSession", "SesTransport", "sending_error"]

MAX_RECIPIENTS = 50
MAX_BYTES = 40 * 1024 * 1024
_MESSAGE_ID = re.compile(rb"^Message-ID: (<[^<>\r\n]+>)\r$", re.MULTILINE)
_THROTTLED = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded"})
_USED_UP = frozenset({"LimitExceededException"})
_DENIED = re.compile(
    r"AccessDenied|NotAuthorized|UnrecognizedClient|InvalidClientToken|Signature|AccountSuspended|Paused"
)
_EXPIRED = re.compile(r"Expired")
_A_DAY_OFF = 3600.0


@dataclass(frozen=True, kw_only=True)
class SesConfig(OutgoingConfig):
    """Our options of an ``aws`` connection; credentials, region and endpoint are the official provider's."""

    configuration_set: str = option("", label="Configuration set", help="Of SES, e.g. for its event publishing.")


@dataclass(frozen=True)
class SesTransport:
    """Sends mail through one AWS account and region.

    :param client: returns a boto3 client of ``sesv2`` that does not retry by itself.
    """

    config: SesConfig
    client: Callable[[], Any]
    capabilities: ClassVar[Capabilities] = Capabilities(
        each_recipient=False, max_recipients=MAX_RECIPIENTS, rewrites=frozenset({"message-id", "date"})
    )

    @property
    def seconds(self) -> float:
        return 3 * self.config.timeout

    async def login(self, deadline: Deadline) -> SesSession:
        """Resolve the credentials; no request is sent to SES."""
        threads = ThreadPoolExecutor(1, "ses")
        try:
            client = await asyncio.get_running_loop().run_in_executor(threads, self._client)
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return SesSession(client, self.config, threads, deadline)

    async def envelope(self, mail: Addressed, recipients: Sequence[str], size: int, deadline: Deadline) -> SesSession:
        """Prepare to send."""
        session = await self.login(deadline)
        try:
            await session.announce(mail, recipients, size)
        except BaseException:
            await session.close()
            raise
        return session

    def _client(self) -> Any:
        from botocore import exceptions

        try:
            return self.client()
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            found = sending_error(error)
            if isinstance(found, OutcomeUnknown):  # whatever was asked, it was not to send
                found = ConnectionLost("AWS cannot be asked for credentials", remedy="nothing to do: it is tried again")
            raise found from None


@dataclass
class SesSession:
    """A client, a thread to call it in, and one message at a time."""

    client: Any
    config: SesConfig
    threads: ThreadPoolExecutor
    deadline: Deadline
    refused: dict[str, Refusal] = field(default_factory=dict)
    _sender: str = ""
    _recipients: tuple[str, ...] = ()

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int, *, at_once: bool = False) -> None:
        """Check and remember the recipients; no request is sent to SES."""
        if size > MAX_BYTES:
            raise Rejected(
                f"Amazon SES takes {MAX_BYTES:,} bytes, the mail has {size:,}",
                status=552,
                code="5.3.4",
                remedy="send less, or a link",
            )
        if mail.needs_utf8:
            raise Rejected(
                "Amazon SES takes no address with letters before its @ that are not ASCII",
                status=553,
                code="5.6.7",
                remedy="use another address, or an SMTP server that knows SMTPUTF8",
            )
        if len(recipients) > MAX_RECIPIENTS:
            raise ConfigError(
                f"Amazon SES takes {MAX_RECIPIENTS} recipients of a mail, and there are {len(recipients)}",
                field="to",
                remedy="use email.send_batch for one mail each, or a mailing list",
            )
        self._sender, self._recipients = mail.sender.address, tuple(recipients)

    async def data(self, message: bytes) -> None:
        """Call ``SendEmail`` once, without retries."""
        from botocore import exceptions

        if found := _MESSAGE_ID.search(message):
            message = b"Original-Message-ID: " + found[1] + b"\r\n" + message
        call = partial(
            self.client.send_email,
            FromEmailAddress=self._sender,
            Destination={"ToAddresses": list(self._recipients)},
            Content={"Raw": {"Data": message}},
            **({"ConfigurationSetName": self.config.configuration_set} if self.config.configuration_set else {}),
        )
        self.deadline.check("sending the mail")
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self.threads, call)
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            raise sending_error(error) from None
        if not answer.get("MessageId"):
            raise OutcomeUnknown("Amazon SES has the message, and its answer makes no sense")

    async def reset(self) -> None:
        """Do nothing: the next announcement replaces the recipients."""

    async def close(self) -> None:
        """Release the thread; a running request ends by itself."""
        self.threads.shutdown(wait=False)


def sending_error(error: Any) -> FlowRunnerError:
    """Return our error for a failure of ``SendEmail``: either it was not sent, or nobody knows."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _refusal(error)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return MissingCredential(
            "there are no AWS credentials",
            field="login",
            remedy="put an access key into login and password, or a role_arn or profile_name into the extra",
        )
    if isinstance(error, exceptions.NoRegionError | exceptions.ParamValidationError | exceptions.ProfileNotFound):
        return ConfigError(
            f"Amazon SES cannot be called: {type(error).__name__}",
            field="extra",
            remedy="look at region_name and profile_name in the connection's extra",
        )
    if isinstance(error, exceptions.SSLError):
        return SecurityError(
            "the certificate of Amazon SES is not trusted", remedy="look at `verify` in the connection's extra"
        )
    if isinstance(error, exceptions.ConnectTimeoutError):
        return TimedOut("Amazon SES does not answer", remedy="look at region, endpoint and firewall")
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ProxyConnectionError):
        return ConnectionLost("Amazon SES cannot be reached", remedy="look at region, endpoint and firewall")
    return OutcomeUnknown(f"Amazon SES has the message, and its answer was lost ({type(error).__name__})")


def _refusal(error: Any) -> FlowRunnerError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    if code in _THROTTLED or status == 429:
        return Throttled(f"Amazon SES throttles ({code}): {said}", remedy="set `rate_limit` on the connection")
    if code in _USED_UP:
        return Throttled(
            f"the sending quota of Amazon SES is used up: {said}",
            retry_after=_A_DAY_OFF,
            remedy="wait, or ask for a higher quota",
        )
    if status >= 500:
        return OutcomeUnknown(f"Amazon SES failed with {status} ({code}) when it had the message")
    if _EXPIRED.search(code):
        return CredentialExpired(f"the AWS credentials ran out ({code})", remedy="nothing to do: new ones are fetched")
    if _DENIED.search(code) or status in (401, 403):
        return AccessDenied(
            f"Amazon SES refuses us ({code}): {said}", remedy="check the keys, and the permission ses:SendEmail"
        )
    return Rejected(
        f"Amazon SES refused the mail ({code}): {said}",
        status=status,
        code=code,
        remedy="look at the answer: sender and, in the sandbox, recipients must be verified",
    )
