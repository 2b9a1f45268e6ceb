"""The notifier that shows a card in Teams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flowrunner_provider.chat.choices import CardKind, Language
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.callbacks import event_of, facts_of, id_of
from flowrunner_provider.runtime.masking import mask_soon, redact
from flowrunner_provider.runtime.notifier import FlowRunnerNotifier

__all__ = ["TeamsNotifier"]

_ATTEMPTS = 3
_LONGEST_WAIT = 5.0
_ERROR = 300


class TeamsNotifier(FlowRunnerNotifier):
    """On success, the channel's workflow has accepted a card with event, DAG, task, run, try, error and links.

    There are up to three attempts within ``timeout``, as long as the card was certainly not accepted. A notifier that
    is killed, or called again for the same try of the task, posts the card again. A failure is a typed error, which
    Airflow logs next to the task's own outcome. The buttons open the task's log, and the run, where it can be cleared.

    :param teams_conn_id: a connection of type ``teams``.
    :param kind: ``failure``, ``success`` or ``sla``; by default derived from the callback.
    :param language: language of titles and labels, ``en`` or ``es``.
    :param title: overrides the default title.
    :param facts: additional rows of the table.
    :param show_error: show the error message, cut at 300 characters and with known secrets redacted; otherwise only the
        error's class.
    """

    action: ClassVar[str] = "teams.notify"
    template_fields: Sequence[str] = ("teams_conn_id", "title", "facts")

    def __init__(
        self,
        *,
        teams_conn_id: str = "teams_default",
        kind: CardKind | None = None,
        language: Language = "en",
        title: str | None = None,
        facts: dict[str, Any] | None = None,
        show_error: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.teams_conn_id, self.kind, self.language = teams_conn_id, kind, language
        self.title, self.facts, self.show_error = title, facts, show_error

    async def send(self, context: Any) -> None:
        """Tell the channel about the task or run whose ``context`` this is."""
        from flowrunner_provider.chat.cards import notification
        from flowrunner_provider.chat.gateway import Message
        from flowrunner_provider.chat.hook import achat_hook
        from flowrunner_provider.chat.post import post_now
        from flowrunner_provider.http.operators.arguments import mapping, one_of

        kind = self.kind or _kind_of(context)
        one_of("kind", kind, CardKind)
        one_of("language", self.language, Language)
        hook = await achat_hook(self.teams_conn_id, "teams")
        card = notification(
            kind,
            facts_of(context),
            error=_words(context) if self.show_error else "",
            language=self.language,
            title=self.title or "",
            more=mapping(self.facts, "facts"),
        )
        run = Run.alone(timeout=self.seconds, retry=RetryPlan(attempts=_ATTEMPTS, in_place=_LONGEST_WAIT))
        async with hook.open(run, mask_later=mask_soon) as gateway:
            await post_now(gateway, Message(card=card), run, action=self.action, key=id_of(context, self.action))


def _kind_of(context: Mapping[str, Any]) -> CardKind:
    if "deadline" in context:
        return "sla"
    return "success" if event_of(context).endswith(".success") else "failure"


def _words(context: Mapping[str, Any]) -> str:
    """The error's own words, on one line."""
    error = context.get("exception")
    text = redact(" ".join(str(error or "").split()))
    return text if len(text) <= _ERROR else f"{text[: _ERROR - 1]}…"
