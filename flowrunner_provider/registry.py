"""The list of connectors, as strings: importing it imports nothing else.

A new connector needs an entry here, a folder, and an extra in ``pyproject.toml``. The provider info, the
catalogue and the README matrix are generated from this list.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALIASES", "CONNECTORS", "REEXPORTS", "STORES", "Alias", "Connector", "Reexport"]


@dataclass(frozen=True, kw_only=True)
class Connector:
    """One connector.

    :param name: name of its folder.
    :param title: display name.
    :param extras: extras of ``pyproject.toml`` that it needs.
    :param connections: Airflow connection types that it uses.
    :param operators: modules of its operators and sensors.
    :param hooks: connection types and their hook classes.
    :param notifiers: notifier classes.
    :param watchers: trigger classes for asset watchers.
    :param owns: connection types that no official provider defines, so that this package defines their forms.
    """

    name: str
    title: str
    extras: tuple[str, ...]
    connections: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    hooks: tuple[tuple[str, str], ...] = ()
    notifiers: tuple[str, ...] = ()
    watchers: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reexport:
    """A class of an official provider, listed as an action.

    :param action: id in the catalogue.
    :param path: import string.
    :param package: distribution that contains it.
    :param kept: True if the package is too large to install for a build; the parameters of the class are
        then read from ``flows/reexports.json``.
    """

    action: str
    path: str
    package: str
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Alias:
    """An additional id of an action.

    :param alias: the additional id.
    :param action: the action it stands for.
    :param given: parameters that it sets, with values.
    """

    alias: str
    action: str
    given: tuple[tuple[str, bool | int | str], ...] = ()


_ROOT = "flowrunner_provider"

CONNECTORS: tuple[Connector, ...] = (
    Connector(
        name="http",
        title="HTTP and REST",
        extras=("http",),
        connections=("http",),
        operators=(f"{_ROOT}.http.operators", f"{_ROOT}.http.sensors"),
        hooks=(("http", f"{_ROOT}.http.hook.FlowRunnerHttpHook"),),
    ),
    Connector(
        name="files",
        title="Files",
        extras=("files", "sftp", "s3", "azure", "gcs", "fsspec", "archive", "crypt", "encoding"),
        connections=("sftp", "ftp", "aws", "wasb", "google_cloud_platform", "generic"),
        operators=(f"{_ROOT}.files.operators", f"{_ROOT}.files.sensors"),
        hooks=(
            ("sftp", f"{_ROOT}.files.hooks.sftp.FlowRunnerSftpHook"),
            ("ftp", f"{_ROOT}.files.hooks.ftp.FlowRunnerFtpHook"),
            ("aws", f"{_ROOT}.files.hooks.s3.FlowRunnerS3Hook"),
            ("wasb", f"{_ROOT}.files.hooks.azure_blob.FlowRunnerAzureBlobHook"),
            ("google_cloud_platform", f"{_ROOT}.files.hooks.gcs.FlowRunnerGcsHook"),
            ("generic", f"{_ROOT}.files.hooks.keys.FlowRunnerKeysHook"),
        ),
        watchers=(f"{_ROOT}.files.triggers.FileArrivedTrigger",),
    ),
    Connector(
        name="data",
        title="Data formats",
        extras=("data",),
        operators=(f"{_ROOT}.data.operators",),
    ),
    Connector(
        name="database",
        title="SQL databases",
        extras=("migrate", "sqlite", "postgres", "mysql", "mssql"),
        connections=("sqlite", "postgres", "mysql", "mssql"),
        operators=(f"{_ROOT}.database.operators",),
        hooks=(
            ("sqlite", f"{_ROOT}.database.hooks.sqlite.FlowRunnerSqliteHook"),
            ("postgres", f"{_ROOT}.database.hooks.postgres.FlowRunnerPostgresHook"),
            ("mysql", f"{_ROOT}.database.hooks.mysql.FlowRunnerMysqlHook"),
            ("mssql", f"{_ROOT}.database.hooks.mssql.FlowRunnerMssqlHook"),
        ),
        watchers=(f"{_ROOT}.database.triggers.SqlRowTrigger",),
    ),
    Connector(
        name="email",
        title="Email",
        extras=("email", "imap", "dkim", "calendar", "ses"),
        connections=("smtp", "aws", "imap"),
        operators=(f"{_ROOT}.email.operators", f"{_ROOT}.email.sensors"),
        hooks=(
            ("smtp", f"{_ROOT}.email.hook.FlowRunnerSmtpHook"),
            ("imap", f"{_ROOT}.email.hooks.imap.FlowRunnerImapHook"),
        ),
        watchers=(f"{_ROOT}.email.triggers.MailMessageTrigger",),
    ),
    Connector(
        name="reports",
        title="Reports",
        extras=("email", "xlsx"),
        connections=("smtp", "aws", "sqlite", "postgres", "mysql", "mssql"),
        operators=(f"{_ROOT}.reports.operators",),
    ),
    Connector(
        name="auth",
        title="Connections and credentials",
        extras=(),
        operators=(f"{_ROOT}.auth.operators",),
    ),
    Connector(
        name="sms",
        title="Text messages",
        extras=("http",),
        connections=("twilio", "vonage", "azure_acs", "aws"),
        operators=(f"{_ROOT}.sms.operators", f"{_ROOT}.sms.sensors"),
        hooks=(
            ("twilio", f"{_ROOT}.sms.hook.TwilioSmsHook"),
            ("vonage", f"{_ROOT}.sms.hook.VonageSmsHook"),
            ("azure_acs", f"{_ROOT}.sms.hook.AzureSmsHook"),
        ),
        notifiers=(f"{_ROOT}.sms.notifier.SmsNotifier",),
        owns=("twilio", "vonage", "azure_acs"),
    ),
    Connector(
        name="chat",
        title="Chat",
        extras=("http",),
        connections=("teams", "google_chat", "discord", "telegram", "mattermost", "slack"),
        operators=(f"{_ROOT}.chat.operators",),
        hooks=(
            ("teams", f"{_ROOT}.chat.hook.TeamsHook"),
            ("google_chat", f"{_ROOT}.chat.hook.GoogleChatHook"),
            ("discord", f"{_ROOT}.chat.hook.DiscordHook"),
            ("telegram", f"{_ROOT}.chat.hook.TelegramHook"),
            ("mattermost", f"{_ROOT}.chat.hook.MattermostHook"),
            ("slack", f"{_ROOT}.chat.hook.FlowRunnerSlackHook"),
        ),
        notifiers=(f"{_ROOT}.chat.notifier.TeamsNotifier",),
        owns=("teams", "google_chat", "mattermost"),
    ),
    Connector(
        name="webhooks",
        title="Webhooks",
        extras=("http",),
        connections=("http",),
        operators=(f"{_ROOT}.webhooks.operators",),
        notifiers=(f"{_ROOT}.webhooks.notifier.WebhookNotifier",),
    ),
)

STORES: dict[str, str] = {
    "sftp": f"{_ROOT}.files.hooks.sftp.FlowRunnerSftpHook",
    "ftp": f"{_ROOT}.files.hooks.ftp.FlowRunnerFtpHook",
    "ftps": f"{_ROOT}.files.hooks.ftp.FlowRunnerFtpHook",
    "s3": f"{_ROOT}.files.hooks.s3.FlowRunnerS3Hook",
    "wasb": f"{_ROOT}.files.hooks.azure_blob.FlowRunnerAzureBlobHook",
    "abfs": f"{_ROOT}.files.hooks.azure_blob.FlowRunnerAzureBlobHook",
    "gs": f"{_ROOT}.files.hooks.gcs.FlowRunnerGcsHook",
    "fsspec": f"{_ROOT}.files.hooks.fsspec.FlowRunnerFsspecHook",
}
"""Hook class by scheme of a file address; local paths have none."""

ALIASES: tuple[Alias, ...] = (
    Alias(alias="files.move", action="files.copy", given=(("move", True),)),
    Alias(alias="transfer.download", action="files.copy"),
    Alias(alias="transfer.upload", action="files.copy"),
)

REEXPORTS: tuple[Reexport, ...] = (
    Reexport(
        action="chat.notify",
        path="airflow.providers.apprise.notifications.apprise.AppriseNotifier",
        package="apache-airflow-providers-apprise",
        kept=True,
    ),
    Reexport(
        action="slack.history",
        path="airflow.providers.slack.operators.slack.SlackAPIConversationsHistoryOperator",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="slack.notify",
        path="airflow.providers.slack.notifications.slack.SlackNotifier",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="slack.post",
        path="airflow.providers.slack.operators.slack.SlackAPIPostOperator",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="slack.post_query",
        path="airflow.providers.slack.transfers.sql_to_slack_webhook.SqlToSlackWebhookOperator",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="slack.send_query",
        path="airflow.providers.slack.transfers.sql_to_slack.SqlToSlackApiFileOperator",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="slack.upload",
        path="airflow.providers.slack.operators.slack.SlackAPIFileOperator",
        package="apache-airflow-providers-slack",
        kept=True,
    ),
    Reexport(
        action="email.notify",
        path="airflow.providers.smtp.notifications.smtp.SmtpNotifier",
        package="apache-airflow-providers-smtp",
    ),
    Reexport(
        action="events.message",
        path="airflow.providers.common.messaging.triggers.msg_queue.MessageQueueTrigger",
        package="apache-airflow-providers-common-messaging",
        kept=True,
    ),
    Reexport(
        action="events.pubsub_publish",
        path="airflow.providers.google.cloud.operators.pubsub.PubSubPublishMessageOperator",
        package="apache-airflow-providers-google",
        kept=True,
    ),
    Reexport(
        action="events.servicebus_send",
        path="airflow.providers.microsoft.azure.operators.asb.AzureServiceBusSendMessageOperator",
        package="apache-airflow-providers-microsoft-azure",
        kept=True,
    ),
    Reexport(
        action="events.sns_publish",
        path="airflow.providers.amazon.aws.operators.sns.SnsPublishOperator",
        package="apache-airflow-providers-amazon",
        kept=True,
    ),
    Reexport(
        action="events.sqs_publish",
        path="airflow.providers.amazon.aws.operators.sqs.SqsPublishOperator",
        package="apache-airflow-providers-amazon",
        kept=True,
    ),
    Reexport(
        action="gcs.copy",
        path="airflow.providers.google.cloud.transfers.gcs_to_gcs.GCSToGCSOperator",
        package="apache-airflow-providers-google",
        kept=True,
    ),
    Reexport(
        action="gcs.sync_buckets",
        path="airflow.providers.google.cloud.operators.gcs.GCSSynchronizeBucketsOperator",
        package="apache-airflow-providers-google",
        kept=True,
    ),
    Reexport(
        action="gcs.transfer_from_s3",
        path="airflow.providers.google.cloud.operators.cloud_storage_transfer_service.CloudDataTransferServiceS3ToGCSOperator",
        package="apache-airflow-providers-google",
        kept=True,
    ),
    Reexport(
        action="http.event",
        path="airflow.providers.http.triggers.http.HttpEventTrigger",
        package="apache-airflow-providers-http",
    ),
    Reexport(
        action="http.notify",
        path="airflow.providers.http.notifications.http.HttpNotifier",
        package="apache-airflow-providers-http",
    ),
    Reexport(
        action="s3.copy_prefix",
        path="airflow.providers.amazon.aws.operators.s3.S3CopyPrefixOperator",
        package="apache-airflow-providers-amazon",
        kept=True,
    ),
    Reexport(
        action="sql.branch",
        path="airflow.providers.common.sql.operators.sql.BranchSQLOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check",
        path="airflow.providers.common.sql.operators.sql.SQLCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check_columns",
        path="airflow.providers.common.sql.operators.sql.SQLColumnCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check_interval",
        path="airflow.providers.common.sql.operators.sql.SQLIntervalCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check_table",
        path="airflow.providers.common.sql.operators.sql.SQLTableCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check_threshold",
        path="airflow.providers.common.sql.operators.sql.SQLThresholdCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.check_value",
        path="airflow.providers.common.sql.operators.sql.SQLValueCheckOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.execute",
        path="airflow.providers.common.sql.operators.sql.SQLExecuteQueryOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.insert",
        path="airflow.providers.common.sql.operators.sql.SQLInsertRowsOperator",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.transfer",
        path="airflow.providers.common.sql.operators.generic_transfer.GenericTransfer",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="sql.wait",
        path="airflow.providers.common.sql.sensors.sql.SqlSensor",
        package="apache-airflow-providers-common-sql",
    ),
    Reexport(
        action="ssh.job",
        path="airflow.providers.ssh.operators.ssh_remote_job.SSHRemoteJobOperator",
        package="apache-airflow-providers-ssh",
    ),
    Reexport(
        action="ssh.run",
        path="airflow.providers.ssh.operators.ssh.SSHOperator",
        package="apache-airflow-providers-ssh",
    ),
)
