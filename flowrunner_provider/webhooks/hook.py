"""Hook of webhook receivers: an ``http`` connection with a ``webhook`` option."""

from __future__ import annotations

from dataclasses import replace

from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.http.credentials import Mask
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.webhooks.choices import Scheme
from flowrunner_provider.webhooks.config import WebhookOptions, signer_of
from flowrunner_provider.webhooks.signing import Signer

__all__ = ["FlowRunnerWebhookHook"]


class FlowRunnerWebhookHook(FlowRunnerHttpHook):
    """Reads an Airflow connection of type ``http`` and its signing options.

    :param conn_id: the connection.
    """

    def options(self) -> WebhookOptions:
        """Return the connection's ``webhook`` option, with its secrets masked.

        :raises ConfigError: naming the field to correct.
        """
        where = f"connection {self.conn_id!r}, webhook"
        options: WebhookOptions = from_mapping(WebhookOptions, self.config.webhook, where=where)
        for secret in options.secrets:
            mask([str(secret), str(secret).removeprefix("whsec_")])
        return options

    def signer(self, sign: Scheme | None = None) -> Signer:
        """Return the signer; ``sign`` overrides the connection's scheme."""
        return signer_of(self.options(), sign)

    def transport(self, run: Run, *, mask_later: Mask = mask) -> HttpTransport:
        """Return a transport that does not follow redirects and redacts the signing secrets."""
        http = super().transport(run, mask_later=mask_later)
        secrets = (*http.settings.secrets, *self.options().secrets)
        http.settings = replace(http.settings, follow_redirects=False, secrets=secrets)
        return http
