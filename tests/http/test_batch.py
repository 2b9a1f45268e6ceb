"""``http.batch`` as a DAG runs it, against a server whose side is looked at."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter, defaultdict

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http import batch
from flowrunner_provider.http.batch_state import MAX_ACTS, Bits
from flowrunner_provider.http.operators import HttpBatchOperator
from flowrunner_provider.runtime.rate_limits import pacer_for
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Effects, Reply, drop, json_reply, throttled


@pytest.fixture
def connect(monkeypatch, http_server, tmp_path):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

    def set_connection(**options):
        value = {"conn_type": "http", "host": http_server.url, "extra": {"flowrunner": options}}
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))

    set_connection()
    return set_connection


@pytest.fixture
def run(connect, tmp_path):
    """One attempt of the task ``name``; the next call with that name is its retry."""

    def perform(items, name="t", **how):
        how.setdefault("request", {"endpoint": "/x/{item.id}"})
        how.setdefault("save_to", str(tmp_path / name / "out.jsonl"))
        how.setdefault("dead_letter", str(tmp_path / name / "dead.jsonl"))
        pacer_for.cache_clear()  # each attempt is a process of its own
        operator = HttpBatchOperator(task_id="t", items=items, **how)
        return execute(operator, make_context(operator, state=FileStateStore(tmp_path / f"state-{name}")))

    return perform


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(count):
    return [{"id": number} for number in range(count)]


def echo(request):
    return json_reply({"id": int(request.path.rsplit("/", 1)[1]), "more": "x"})


def test_every_item_is_asked_once_and_its_answer_kept(run, http_server, tmp_path):
    http_server.route("GET", "*", echo)
    result = run(ids(200), select="id")
    assert (result["items"], result["done"], result["skipped"]) == (200, 200, 0)
    rows = lines(tmp_path / "t" / "out.jsonl")
    assert sorted((row["index"], row["body"], row["status"]) for row in rows) == [(n, n, 200) for n in range(200)]
    assert len(http_server.requests) == 200
    assert lines(tmp_path / "t" / "dead.jsonl") == []
    assert {path.name for path in (tmp_path / "t").iterdir()} == {"out.jsonl", "dead.jsonl"}


def test_no_more_than_allowed_are_in_flight(run, http_server):
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(_):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        http_server.stopping.wait(0.01)
        with lock:
            at_once -= 1
        return json_reply({})

    http_server.route("GET", "*", slow)
    run(ids(60), concurrency=5)
    assert 2 <= most <= 5


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_dataset_is_read_row_by_row(run, http_server, tmp_path, suffix):
    from flowrunner_provider.data.operators import WriteColumnarOperator, WriteCsvOperator

    http_server.route("GET", "*", echo)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": {number}, "name": "n"}}\n' for number in range(30)))
    given = str(source)
    if suffix != ".jsonl":
        cls = WriteCsvOperator if suffix == ".csv" else WriteColumnarOperator
        operator = cls(task_id="w", source=given, path=str(tmp_path / f"in{suffix}"))
        given = execute(operator, make_context(operator, state=FileStateStore(tmp_path / "w")))
    assert run(given)["done"] == 30
    assert len({request.path for request in http_server.requests}) == 30


def test_values_from_an_upstream_task_are_not_rendered(run, http_server, connect, tmp_path):
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.sdk import DAG
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    http_server.route("POST", "/x", json_reply({}))
    with DAG("d"):
        upstream = BashOperator(task_id="up", bash_command="true")
        operator = HttpBatchOperator(
            task_id="t",
            items=PlainXComArg(upstream),
            request={"method": "POST", "endpoint": "/x", "json": {"a": "{item}", "day": "{{ ds }}"}},
            save_to=str(tmp_path / "o.jsonl"),
        )
    state = FileStateStore(tmp_path / "s")
    execute(operator, make_context(operator, state=state, xcoms={"up": ["{{ 7 * 7 }}", "{item}"]}))
    assert {request.json()["a"] for request in http_server.requests} == {"{{ 7 * 7 }}", "{item}"}
    assert http_server.requests[0].json()["day"] == "2026-01-02"


def test_only_what_failed_is_done_again(run, http_server, tmp_path):
    """GUARANTEES row 21: 1,000 items of which 10 % fail."""
    bad = set(random.Random(3).sample(range(1000), 100))
    healed = False

    def flaky(request):
        number = int(request.path.rsplit("/", 1)[1])
        return Reply(422, b"no") if number in bad and not healed else json_reply({"id": number})

    http_server.route("GET", "*", flaky)
    with pytest.raises(e.PartialFailure) as caught:
        run(ids(1000))
    assert (caught.value.done, caught.value.retryable) == (900, False)
    assert "100 of 1,000" in caught.value.message
    assert len(caught.value.failed) <= 20
    dead = lines(tmp_path / "t" / "dead.jsonl")
    assert {row["index"] for row in dead} == bad
    assert {(row["error"], row["status"], row["attempt"]) for row in dead} == {("Rejected", 422, 1)}
    assert dead[0]["item"] == {"id": dead[0]["index"]}
    assert len(lines(tmp_path / "t" / "out.jsonl")) == 900
    healed = True
    http_server.requests.clear()
    assert run(ids(1000))["done"] == 1000
    assert {int(request.path[3:]) for request in http_server.requests} == bad
    assert len(http_server.requests) == 100
    assert sorted(row["index"] for row in lines(tmp_path / "t" / "out.jsonl")) == list(range(1000))
    assert lines(tmp_path / "t" / "dead.jsonl") == []


def test_fail_stops_at_the_first_failure(run, http_server):
    http_server.route("GET", "*", lambda r: Reply(404) if r.path == "/x/3" else echo(r))
    with pytest.raises(e.PartialFailure, match="item 3: NotFound"):
        run(ids(500), on_item_error="fail", concurrency=2)
    assert len(http_server.requests) < 10


def test_too_many_failures_stop_the_batch(run, http_server, tmp_path):
    http_server.route("GET", "*", Reply(400))
    with pytest.raises(e.PartialFailure, match="the remaining items were not tried"):
        run(ids(500), max_failures=5, concurrency=4)
    assert 6 <= len(http_server.requests) <= 9
    assert 6 <= len(lines(tmp_path / "t" / "dead.jsonl")) <= 9


def test_a_long_wait_goes_to_airflow_and_the_retry_does_the_rest(run, http_server):
    throttling = True

    def limited(request):
        return throttled("3600") if throttling and int(request.path[3:]) >= 20 else echo(request)

    http_server.route("GET", "*", limited)
    with pytest.raises(e.Throttled) as caught:
        run(ids(300), concurrency=8)
    assert 3500 < caught.value.retry_after <= 3600
    assert len(http_server.requests) <= 20 + 8
    throttling = False
    http_server.requests.clear()
    assert run(ids(300))["done"] == 300
    assert len(http_server.requests) == 280


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_throttling_storm(run, http_server, status, method):
    """GUARANTEES row 6: 30 % are refused, nobody comes early, and nobody asks more than he must."""
    draw, lock = random.Random(5), threading.Lock()
    refused: dict[str, float] = {}
    early: list[float] = []
    calls: Counter[str] = Counter()
    quiet_until = 0.0

    def stormy(request):
        nonlocal quiet_until
        with lock:
            calls["all"] += 1
            if (due := refused.pop(request.path, None)) is not None and request.at < due - 0.05:
                early.append(due - request.at)
            if draw.random() < 0.3:
                wait = int(calls["refused"] % 20 == 0 and calls["long"] < 3)
                calls["refused"] += 1
                calls["long"] += wait
                refused[request.path] = request.at + wait
                return throttled(str(wait), status)
            return json_reply({})

    http_server.route(method, "*", stormy)
    request = {"method": method, "endpoint": "/x/{item.id}"}
    assert run(ids(240), request=request, concurrency=16)["done"] == 240
    assert early == []
    assert calls["refused"] > 60
    assert calls["all"] <= 1.2 * (240 + calls["refused"])


def test_a_retry_after_holds_all_workers(run, http_server):
    seen = []

    def once(request):
        if not seen:
            seen.append(request.at)
            return throttled("1")
        return echo(request)

    http_server.route("GET", "*", once)
    run(ids(100), concurrency=4)
    within = [request.at - seen[0] for request in http_server.requests if 0.1 < request.at - seen[0] < 0.95]
    assert within == []


def test_the_rate_limit_of_the_connection_paces_the_batch(run, http_server, connect):
    connect(rate_limit="50/second")
    http_server.route("GET", "*", echo)
    run(ids(40))
    took = http_server.requests[-1].at - http_server.requests[0].at
    assert 39 / 50 - 0.05 <= took < 10


# Acts


def post(**how):
    return {"method": "POST", "endpoint": "/pay", "json": {"id": "{item.id}"}, **how}


def test_keyed_posts_are_repeated_under_their_keys(run, http_server, connect):
    connect(honours_idempotency_key=True)
    effects, unlucky = Effects(), {f"order-{number}" for number in range(10)}

    def pay(request):
        """The first answer to each of ten items is lost."""
        reply, key = effects(request), request.headers["idempotency-key"]
        if key not in unlucky:
            return reply
        unlucky.remove(key)
        return drop()

    http_server.route("POST", "/pay", pay)
    run(ids(50), request=post(), idempotency_key="order-{item.id}", concurrency=4)
    assert sorted(effect.json()["id"] for effect in effects.effects) == list(range(50))
    assert len(http_server.requests) == 60
    assert {request.headers["idempotency-key"] for request in http_server.requests} == {
        f"order-{number}" for number in range(50)
    }


def test_a_second_item_with_the_same_key_is_an_error_and_not_a_success(run, http_server, connect):
    connect(honours_idempotency_key=True)
    http_server.route("POST", "/pay", Effects())
    for _ in range(2):
        with pytest.raises(e.PartialFailure, match="same idempotency key"):
            run([{"id": 1}, {"id": 2}, {"id": 1}], request=post(), idempotency_key="order-{item.id}")
    assert len(http_server.requests) == 2


@pytest.mark.parametrize("policy", ["stop", "skip", "resend"])
def test_lost_answers_without_a_key(run, http_server, tmp_path, policy):
    effects = Effects(key_header=None)
    lose = {3, 7}

    def route(request):
        reply = effects(request)
        number = request.json()["id"]
        if number in lose:
            lose.discard(number)
            return drop()
        return reply

    http_server.route("POST", "/pay", route)
    how = {"request": post(), "on_unknown": policy, "concurrency": 4}
    if policy == "stop":
        for _ in range(2):
            with pytest.raises(e.OutcomeUnknown, match="index 3, 7") as caught:
                run(ids(20), **how)
            assert not caught.value.reconcilable
        assert run(ids(20), **{**how, "on_unknown": "skip"})["skipped"] == 2
    else:
        result = run(ids(20), **how)
        assert (result["done"], result["skipped"]) == ((20, 0) if policy == "resend" else (18, 2))
    times = Counter(effect.json()["id"] for effect in effects.effects)
    assert times == {number: 2 if policy == "resend" and number in (3, 7) else 1 for number in range(20)}
    rows = {row["index"]: row for row in lines(tmp_path / "t" / "out.jsonl")}
    assert len(rows) == 20
    assert ("skipped" in rows[3]) == (policy != "resend")


def test_a_throttled_post_is_known_not_to_have_happened(run, http_server):
    effects, seen = Effects(key_header=None), defaultdict(int)

    def route(request):
        number = request.json()["id"]
        seen[number] += 1
        return throttled("0") if seen[number] == 1 else effects(request)

    http_server.route("POST", "/pay", route)
    assert run(ids(20), request=post())["done"] == 20
    assert len(effects.effects) == 20


def test_an_act_whose_answer_cannot_be_used_is_not_repeated(run, http_server, tmp_path):
    http_server.route("POST", "/pay", lambda r: json_reply({} if r.json()["id"] == 1 else {"no": 5}))
    for _ in range(2):
        with pytest.raises(e.PartialFailure, match="1 of 3 items") as caught:
            run(ids(3), request=post(), select="no")
        assert [row["index"] for row in lines(tmp_path / "t" / "dead.jsonl")] == [1]
        assert caught.value.done == 2
    assert len(http_server.requests) == 3


def test_a_delete_whose_answer_was_lost_is_no_failure(run, http_server):
    gone = set()

    def delete(request):
        if request.path in gone:
            return Reply(404)
        gone.add(request.path)
        return drop() if request.path == "/x/1" else Reply(204)

    http_server.route("DELETE", "*", delete)
    assert run(ids(4), request={"method": "DELETE", "endpoint": "/x/{item.id}"})["done"] == 4
    with pytest.raises(e.PartialFailure, match="NotFound"):
        run(ids(4), name="again", request={"method": "DELETE", "endpoint": "/x/{item.id}"})


def test_other_items_in_a_retry_of_acts_are_refused(run, http_server):
    http_server.route("POST", "/pay", Reply(400))
    with pytest.raises(e.PartialFailure):
        run(ids(3), request=post())
    with pytest.raises(e.PermanentError, match="other items"):
        run(ids(4), request=post())
    with pytest.raises(e.PermanentError, match="other items"):
        run(ids(4), request=post(), resume=False)


def test_lost_results_of_acts_are_an_error_and_not_a_second_act(run, http_server, tmp_path):
    http_server.route("POST", "/pay", lambda r: Reply(400) if r.json()["id"] == 1 else json_reply({}))
    with pytest.raises(e.PartialFailure):
        run(ids(3), request=post())
    (tmp_path / "t" / "out.jsonl").unlink()
    with pytest.raises(e.IntegrityError, match="2 items were done"):
        run(ids(3), request=post())
    assert len(http_server.requests) == 3


def test_the_record_of_100_000_acts_fits_the_state_store():
    draw = random.Random(1)
    bits = Bits()
    for number in range(MAX_ACTS):
        if draw.random() < 0.5:
            bits.add(number)
    packed = bits.packed()
    assert 2 * len(packed) < 58_000
    assert list(Bits(packed)) == list(bits)
    assert Bits(packed).count == bits.count


def test_more_acts_than_can_be_accounted_for_are_refused_first(run, http_server):
    with pytest.raises(e.ConfigError, match="150,000"):
        run(list(range(MAX_ACTS + 1)), request=post(json="{item}"))
    assert http_server.requests == []


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"request": {"endpoint": "/{item.id"}}, "endpoint"),
        ({"request": {"method": "FETCH"}}, "method"),
        ({"request": {"path": "/x"}}, "path"),
        ({"request": "/x"}, "request"),
        ({"items": 5}, "items"),
        ({"save_to": "relative.jsonl"}, "save_to"),
        ({"save_to": "/tmp/x.csv"}, "save_to"),
        ({"dead_letter": "relative"}, "dead_letter"),
        ({"select": "]["}, "select"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"on_item_error": "ignore"}, "on_item_error"),
        ({"on_unknown": "maybe"}, "on_unknown"),
        ({"idempotency_key": True}, "idempotency_key"),
        ({"idempotency_key": "same", "request": {"method": "POST", "endpoint": "/x"}}, "idempotency_key"),
        ({"http_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(run, http_server, how, field):
    with pytest.raises(e.ConfigError) as caught:
        run(how.pop("items", ids(3)), **how)
    assert caught.value.field == field
    assert caught.value.remedy
    assert http_server.requests == []


def test_a_bad_item_fails_alone(run, http_server, tmp_path):
    http_server.route("GET", "*", echo)
    with pytest.raises(e.PartialFailure, match=r"item 1: ConfigError: \{item.id\} of this item does not exist"):
        run([{"id": 0}, {}, {"id": 2}])
    assert [row["error"] for row in lines(tmp_path / "t" / "dead.jsonl")] == ["ConfigError"]


def test_counts_that_do_not_add_up_are_an_error(run, http_server, monkeypatch):
    http_server.route("GET", "*", echo)
    monkeypatch.setattr(batch._Batch, "_record_done", lambda *_: None)
    with pytest.raises(e.IntegrityError, match="do not add up"):
        run(ids(3))
