"""The notifier that pages people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.errors import FlowRunnerError, PartialFailure
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.callbacks import event_of, facts_of, id_of
from flowrunner_provider.runtime.masking import mask_soon
from flowrunner_provider.runtime.notifier import FlowRunnerNotifier

__all__ = ["SmsNotifier"]

_ATTEMPTS = 3
_LONGEST_WAIT = 5.0


class SmsNotifier(FlowRunnerNotifier):
    """On success, the vendor has accepted the message for every number.

    Each number gets up to three attempts within ``timeout``, as long as the message was certainly not accepted. A
    notifier that is killed, or called again for the same try of the task, may send the message twice, except through
    Azure, which recognises the repeated token. A failing number does not stop the others. A failure is a typed error,
    which Airflow logs next to the task's own outcome. Works in callbacks of tasks and runs, and in deadline alerts.

    :param to: a number in E.164, or a list of them.
    :param body: the text; by default the event, DAG and task, without the error message.
    :param sms_conn_id: the connection to the vendor.
    :param sender: the sender; by default the connection's.
    :param max_segments: maximum segments; a longer text is cut.
    """

    action: ClassVar[str] = "sms.notify"
    template_fields: Sequence[str] = ("to", "body", "sms_conn_id", "sender")

    def __init__(
        self,
        *,
        to: list[str] | str,
        body: str | None = None,
        sms_conn_id: str = "sms_default",
        sender: str | None = None,
        max_segments: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to, self.body, self.sms_conn_id = to, body, sms_conn_id
        self.sender, self.max_segments = sender, max_segments

    async def send(self, context: Any) -> None:
        """Tell people about the task or run whose ``context`` this is."""
        from flowrunner_provider.sms.hook import asms_hook
        from flowrunner_provider.sms.recipients import Draft, addressed
        from flowrunner_provider.sms.send import send_now

        hook = await asms_hook(self.sms_conn_id)
        body = cut(self.body or summary(context), self.max_segments)
        draft = Draft(body=body, sender=self.sender or hook.config.sender, max_segments=self.max_segments)
        letters = addressed(self.to, draft)
        run = Run.alone(timeout=self.seconds, retry=RetryPlan(attempts=_ATTEMPTS, in_place=_LONGEST_WAIT))
        failed = dict(letters.invalid)
        last: FlowRunnerError | None = None
        async with hook.open(run, mask_later=mask_soon) as gateway:
            for text in letters.texts.values():
                gateway.check(text)
            for index, text in letters.texts.items():
                try:
                    key = id_of(context, f"sms\0{text.number}\0{text.body}")
                    await send_now(gateway, text, run, key=key)
                except FlowRunnerError as error:
                    failed[index], last = error.message, error
        if last is not None and len(failed) == letters.rows:
            raise last
        if failed:
            raise PartialFailure(
                f"{len(failed)} of {letters.rows} people were not paged: {next(iter(failed.values()))}",
                done=letters.rows - len(failed),
                failed={str(index): why for index, why in failed.items()},
                remedy="correct their numbers, or look at the vendor",
            )


def summary(context: Mapping[str, Any]) -> str:
    """One line: what has happened, to what, and the class of the error."""
    facts = facts_of(context)
    what = event_of(context).removeprefix("airflow.").replace(".", " ").replace("_", " ")
    whom = ".".join(str(facts[name]) for name in ("dag_id", "task_id") if name in facts) or "Airflow"
    details = [str(facts[name]) for name in ("exception", "run_id") if name in facts]
    return f"{whom}: {what}" + (f" ({', '.join(details)})" if details else "")


def cut(text: str, segments: int) -> str:
    """The beginning of the text that fits into so many segments."""
    from flowrunner_provider.sms.segments import segmented

    if segmented(text).segments <= segments:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if segmented(f"{text[:middle]}...").segments <= segments else (low, middle - 1)
    return f"{text[:low]}..."
