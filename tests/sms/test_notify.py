"""sms.notify, called as Airflow calls it."""

from __future__ import annotations

import asyncio

import pytest
from airflow.triggers.callback import CallbackTrigger

from flowrunner_provider.core import errors as e
from flowrunner_provider.sms.notifier import SmsNotifier
from tests.sms.stage import ME
from tests.support.context import make_context
from tests.support.http_server import Reply, throttled

CANARY = "canary-password-99"


def context_of(**more):
    context = make_context(**{"exception": ValueError(f"login {CANARY} failed"), "params": {"p": CANARY}, **more})
    context["ti"].state = "failed"
    return context


def test_people_are_paged_with_what_has_happened(vendor):
    stage = vendor("twilio")
    SmsNotifier(to=[ME, "+4915550001"])(context_of())
    assert [each.number for each in stage.taken] == [ME, "+4915550001"]
    assert stage.taken[0].body == "dag.task: task failed (ValueError, manual__2026-01-02T03:04:05+00:00)"


def test_a_text_of_ones_own_is_cut_to_fit(vendor):
    stage = vendor("twilio")
    SmsNotifier(to=ME, body="{{ ti.task_id }} " + "x" * 400, max_segments=1)(context_of())
    assert len(stage.taken[0].body) == 160
    assert stage.taken[0].body.startswith("task xxx")


def test_it_tries_again_while_nothing_was_taken(vendor):
    stage = vendor("twilio")
    stage.faults.extend([throttled("0"), throttled("0")])
    SmsNotifier(to=ME)(context_of())
    assert len(stage.taken) == 1
    stage.faults.extend(["lose"])
    with pytest.raises(e.OutcomeUnknown):
        SmsNotifier(to=ME)(context_of())
    assert len(stage.taken) == 2


def test_azure_recognises_a_repeated_callback(vendor):
    stage = vendor("azure_acs")
    stage.faults.append("lose")
    SmsNotifier(to=ME)(context_of())
    assert len(stage.taken) == 1


def test_one_number_does_not_keep_the_others_waiting(vendor):
    stage = vendor("twilio")
    stage.fake.blocked.add("+4915550001")
    with pytest.raises(e.PartialFailure) as caught:
        SmsNotifier(to=["nobody", "+4915550001", ME])(context_of())
    assert [each.number for each in stage.taken] == [ME]
    assert sorted(caught.value.failed) == ["0", "1"]
    stage.faults.append(Reply(401))
    with pytest.raises(e.AccessDenied):
        SmsNotifier(to=[ME])(context_of())


def test_a_deadline_alert_awaits_it_in_the_triggerer(vendor):
    stage = vendor("twilio")
    context = {"dag_run": {"dag_id": "d", "dag_run_id": "r", "conf": {"p": CANARY}}, "deadline": {"id": "1"}}
    path = f"{SmsNotifier.__module__}.{SmsNotifier.__name__}"
    trigger = CallbackTrigger(path, {"to": ME, "context": context})

    async def states() -> list[str]:
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(states()) == ["running", "success"]
    assert stage.taken[0].body == "d: deadline missed (r)"
