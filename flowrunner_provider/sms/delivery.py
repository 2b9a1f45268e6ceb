"""Checks whether accepted messages were delivered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.errors import ConfigError, PartialFailure
from flowrunner_provider.sms.gateway import Gateway
from flowrunner_provider.sms.results import DeliveryReport

__all__ = ["MAX_MESSAGES", "Watch"]

MAX_MESSAGES = 500
"""Messages of one wait: each look asks for each of them that is still on its way."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The messages to wait for.

    :param message_ids: as returned by ``sms.send``.
    :param success: statuses that count as delivered; if empty, those that the vendor calls delivered.
    :param fail: statuses that count as failed; if empty, the vendor's other final statuses.
    """

    message_ids: tuple[str, ...]
    success: tuple[str, ...] = ()
    fail: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Watch:
        """Return the watch that :meth:`to_json` describes."""
        return cls(**{name: tuple(item) for name, item in value.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the form in which a trigger serialises it."""
        return {name: list(item) for name, item in asdict(self).items()}

    def check(self) -> None:
        """Raise :class:`ConfigError`, naming the parameter, unless the watch is valid."""
        if not self.message_ids or not all(
            isinstance(message_id, str) and message_id for message_id in self.message_ids
        ):
            raise ConfigError(
                "there is no message to wait for",
                field="message_ids",
                remedy="pass message_ids of the result of sms.send",
            )
        if len(self.message_ids) > MAX_MESSAGES:
            raise ConfigError(
                f"{len(self.message_ids):,} messages are more than the {MAX_MESSAGES} of one wait",
                field="message_ids",
                remedy="split them, e.g. with one mapped task for each part",
            )
        if both := set(self.success) & set(self.fail):
            raise ConfigError(
                f"{sorted(both)[0]!r} is in both success_states and fail_states",
                field="fail",
                remedy="remove it from one",
            )

    async def poll(self, gateway: Gateway, settled: dict[str, str]) -> DeliveryReport | None:
        """Poll each unsettled message; return the report when all are delivered, None while some are under way.

        :param settled: message id -> final status from earlier polls; updated in place.
        :raises PartialFailure: when all are settled and some were not delivered.
        """
        capabilities = gateway.capabilities
        success = frozenset(self.success) or capabilities.delivered
        fail = frozenset(self.fail) or capabilities.final - success
        if not capabilities.final:
            await gateway.state(self.message_ids[0])  # raises: this vendor cannot be polled
        for message_id in dict.fromkeys(self.message_ids):
            if message_id not in settled:
                state = await gateway.state(message_id)
                if state.status in success | fail | capabilities.final:
                    settled[message_id] = f"{state.status} {state.code}".strip()
        if len(settled) < len(set(self.message_ids)):
            return None
        failed = {name: status for name, status in settled.items() if status.split(" ")[0] not in success}
        if failed:
            first = ", ".join(f"{name}: {status}" for name, status in list(failed.items())[:3])
            raise PartialFailure(
                f"{len(failed)} of {len(settled)} messages did not arrive: {first}",
                done=len(settled) - len(failed),
                failed=dict(list(failed.items())[:20]),
                retryable=False,
                remedy="look up the codes in the vendor's reference; contact these people another way",
            )
        return DeliveryReport(messages=len(settled), statuses=settled)
