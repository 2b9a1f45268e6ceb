"""Amazon S3 from ``aws`` connections, with credentials from the official provider's hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.extras import load
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.hooks.bucket import BucketHook
from flowrunner_provider.files.stores.s3 import S3Store, S3Target
from flowrunner_provider.runtime.hook import extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerS3Hook"]


class FlowRunnerS3Hook(BucketHook[S3Config]):
    """Opens S3 buckets from ``aws`` connections.

    Access keys, profiles, roles, regions and endpoints are resolved by the official provider's hook.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "aws_conn_id"
    default_conn_name: ClassVar[str] = "aws_default"
    conn_type: ClassVar[str] = "aws"
    hook_name: ClassVar[str] = "Amazon S3"
    config_type: ClassVar[type] = S3Config
    service: ClassVar[str] = "s3"
    scheme: ClassVar[str] = "s3"
    reads: ClassVar[tuple[str, ...]] = ("aws",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the official extras that select the server, and our options."""
        extra = extra_of(found)
        service = (extra.get("service_config") or {}).get("s3") or {}
        values: dict[str, Any] = {name: extra[name] for name in ("region_name", "endpoint_url") if extra.get(name)}
        if service.get("endpoint_url"):
            values["endpoint_url"] = service["endpoint_url"]
        if service.get("bucket_name"):
            values["bucket"] = service["bucket_name"]
        verify = extra.get("verify", True)
        if isinstance(verify, bool) or str(verify).lower() in ("true", "false"):
            values["verify"] = str(verify).lower() == "true"
        elif verify:
            values["ca_bundle"] = str(verify)
        return {**values, **options_of(found, cls.service)}

    def _read(self, found: Connection) -> S3Config:
        config = super()._read(found)
        self._official = self._official_hook(found)
        return config

    def _official_hook(self, found: Connection) -> Any:
        """Return the official hook for a connection that was already read."""
        module = "airflow.providers.amazon.aws"
        base = load(f"{module}.hooks.base_aws", extra="s3", needed_for="a connection of type aws")
        wrapper = load(f"{module}.utils.connection_wrapper", extra="s3", needed_for="a connection of type aws")
        hook = base.AwsBaseHook(aws_conn_id=found.conn_id, client_type="s3")
        hook.conn_config = wrapper.AwsConnectionWrapper(conn=found)
        return hook

    def bucket(self, name: str, where: str) -> S3Store:
        return S3Store(self.target(name), where=where)

    def target(self, bucket: str) -> S3Target:
        """Return the bucket and how to reach it."""
        config = self.config
        return S3Target(
            bucket=bucket,
            config=config,
            session=self._official.get_session,
            client_config=self._official.conn_config.botocore_config,
        )

    async def describe_account(self) -> str:
        names = await S3Store(self.target("")).buckets()
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return f"Logged in; {len(names)} buckets: {shown}."
