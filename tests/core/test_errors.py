"""The error tree: complete, documented, and the same on the other side of a process boundary."""

import json

import pytest

from flowrunner_provider.core import errors
from flowrunner_provider.core.errors import (
    FlowRunnerError,
    MissingExtra,
    OutcomeUnknown,
    PartialFailure,
    Rejected,
    Throttled,
    from_event,
)

CLASSES = [
    value
    for name in errors.__all__
    if isinstance(value := getattr(errors, name), type) and issubclass(value, FlowRunnerError)
]


def test_every_class_is_named_in_the_module_s_docstring() -> None:
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize(
    "error",
    [
        Rejected("no", status=422, code="E1", remedy="mend it"),
        Throttled("slow", retry_after=2.5),
        PartialFailure("some", done=3, failed={"a@x": "550 unknown"}),
        OutcomeUnknown("who knows", effect_key="k", reconcilable=False),
        MissingExtra("sftp", "files.copy to sftp://"),
        *(cls("plain", remedy="do") for cls in CLASSES if cls not in (MissingExtra, PartialFailure)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_a_process_boundary(error: FlowRunnerError) -> None:
    again = from_event(json.loads(json.dumps(error.to_event())))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_event_of_a_newer_version_is_still_an_error() -> None:
    assert type(from_event({"error_type": "Novel", "message": "m"})) is FlowRunnerError


def test_the_text_ends_with_the_remedy() -> None:
    assert str(Rejected("it failed", remedy="do this")) == "it failed -> do this"
    assert "pip install 'airflow-provider-flowrunner[sftp]'" in str(MissingExtra("sftp", "this"))
