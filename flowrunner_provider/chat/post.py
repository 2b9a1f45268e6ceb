"""Posts one message to one platform, once over all attempts of the task."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flowrunner_provider.chat.gateway import ChatGateway, Message
from flowrunner_provider.chat.results import Posted
from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.core.handover import deliver, hand_over
from flowrunner_provider.core.run import Run

__all__ = ["post_now", "post_once"]


async def post_once(
    gateway: ChatGateway, message: Message, run: Run, *, action: str, on_unknown: OnUnknown = "stop"
) -> Posted:
    """Post ``message`` unless an earlier attempt has posted it.

    :param action: names the effect and its failpoints.
    :raises OutcomeUnknown: when nobody knows whether it was posted.
    """

    async def send(key: str, at: datetime) -> Any:
        del at
        return {"id": await gateway.post(message, key)}

    async def find(key: str, at: datetime) -> Any:
        found = await gateway.find(message, key, at)
        return None if found is None else {"id": found}

    gateway.check(message)
    answer = await hand_over(
        run,
        gateway.far,
        action=action,
        name=action,
        fingerprint=fingerprint(*message.identity),
        exchange=gateway.http.settings.timeout,
        on_unknown=on_unknown,
        send=send,
        find=find,
    )
    if answer is None:  # on_unknown='skip'
        return Posted(platform=gateway.far.title, message_id="", unknown=True)
    return Posted(platform=gateway.far.title, message_id=answer["id"])


async def post_now(gateway: ChatGateway, message: Message, run: Run, *, action: str, key: str) -> None:
    """Post the message of a callback, without a ledger.

    :param key: the idempotency token, where the platform supports one.
    """

    async def send(key: str, at: datetime) -> Any:
        del at
        return {"id": await gateway.post(message, key)}

    gateway.check(message)
    await deliver(run, gateway.far, send, action=action, key=key, at=run.clock.now())
