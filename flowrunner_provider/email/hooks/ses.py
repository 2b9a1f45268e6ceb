"""Amazon SES from ``aws`` connections: who one is, is found out by the official provider's hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.extras import load
from flowrunner_provider.email.hook import OutgoingHook
from flowrunner_provider.email.ses import SesConfig, SesTransport, sending_error
from flowrunner_provider.runtime.hook import options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerSesHook"]


class FlowRunnerSesHook(OutgoingHook[SesConfig]):
    """Reads ``aws`` connections; access keys, profiles, roles, regions and endpoints mean what they mean there.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "aws_conn_id"
    default_conn_name: ClassVar[str] = "aws_default"
    conn_type: ClassVar[str] = "aws"
    hook_name: ClassVar[str] = "Amazon SES"
    config_type: ClassVar[type] = SesConfig
    service: ClassVar[str] = "ses"
    reads: ClassVar[tuple[str, ...]] = ("aws",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Our options; all else is read by the official hook."""
        return options_of(found, cls.service)

    def _read(self, found: Connection) -> SesConfig:
        config = super()._read(found)
        module, needed = "airflow.providers.amazon.aws", "sending mail by Amazon SES"
        load("boto3", extra="ses", needed_for=needed)
        base = load(f"{module}.hooks.base_aws", extra="ses", needed_for=needed)
        wrapper = load(f"{module}.utils.connection_wrapper", extra="ses", needed_for=needed)
        hook = base.AwsBaseHook(aws_conn_id=found.conn_id, client_type="sesv2")
        hook.conn_config = wrapper.AwsConnectionWrapper(conn=found)
        self._official = hook
        return config

    @property
    def transport(self) -> SesTransport:
        config = self.config
        return SesTransport(config, self._client)

    def _client(self) -> Any:
        """The client, which waits so long and repeats nothing: a second SendEmail is a second mail."""
        from botocore.config import Config

        timeout = self.config.timeout
        once = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
        return self._official.get_client_type(
            config=(self._official.conn_config.botocore_config or Config()).merge(once)
        )

    def check(self) -> str:
        """Ask for the account's sending quota; nothing is sent."""
        from botocore import exceptions

        Deadline(4 * self.config.timeout).check("the connection test")
        try:
            account = self._client().get_account()
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            raise sending_error(error) from None
        quota = account.get("SendQuota", {})
        sandbox = "" if account.get("ProductionAccessEnabled") else "; in the sandbox: recipients must be verified"
        return f"Amazon SES answers; {quota.get('Max24HourSend', 0):g} mails in 24 hours{sandbox}"
