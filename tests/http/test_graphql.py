"""http.graphql: errors are errors, mutations happen once, every page is there once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core import errors as e
from flowrunner_provider.http import pagination
from flowrunner_provider.http.graphql import operation_of
from flowrunner_provider.http.operators import GraphQLOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Effects, HttpServer, Reply, Request, drop, in_turn, json_reply
from tests.support.kill import Outcome, attempt, double_kill, kill_at, random_kills, sweep, zombies

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "2"))
SECRET = "s3cr3t-canary-0916"
PAY = "mutation Pay($n: Int!) { pay(n: $n) { id } }"
PAGES = "query($first: Int, $after: String) { shop { orders(first: $first, after: $after) { nodes { id } pageInfo } } }"
ROWS = [{"id": number} for number in range(7)]

# The document


@pytest.mark.parametrize(
    ("document", "name", "kind"),
    [
        ("{ a }", None, "query"),
        ("\ufeff# mutation { x }\n query Q { a }", None, "query"),
        ('query Q($a: In = {b: "} mutation M {", c: [{d: 1}]}) @x(y: {z: 1}) { a(b: $a) { ...F @include(if: $b) } }',
         None, "query"),
        ('mutation{a(t:"""\n } \\""" query { " "" \n""")}', None, "mutation"),
        ("query Q { a } mutation M { b } fragment F on T { c }", "M", "mutation"),
        ("query Q { a } mutation M { b }", "Q", "query"),
        ("fragment mutation on T { c } query mutation { a }", None, "query"),
        ("query query { mutation }", None, "query"),
        ("{ a(s: \"\\\" } #\", n: -1.5e+3, e: ENUM, l: [1 2], v: null) }", None, "query"),
    ],
)  # fmt: skip
def test_what_a_document_does(document, name, kind):
    assert operation_of(document, name).kind == kind


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ("", None), ("{ a", None), ("{ a )}", None), ("}", None), ("query", None), ("{ a } { b }", None),
        ("query A { a } query B { b }", None), ("query A { a }", "B"), ("query A { a } mutation A { b }", "A"),
        ("subscription { a }", None), ("type T { a: Int }", None), ('{ a(b: "x) }', None), ('"""x', None),
        ("SELECT 1", None), ("{ a; b }", None), ("mutatio\u043d { a }", None),
    ],
)  # fmt: skip
def test_a_document_that_does_something_else_is_refused(document, name):
    with pytest.raises(e.ConfigError) as caught:
        operation_of(document, name)
    assert caught.value.remedy


@given(st.text('{}()[]"\\#\n ,!$abquerymutation:', max_size=60))
def test_any_text_is_a_document_or_a_config_error(document):
    with contextlib.suppress(e.ConfigError):
        assert operation_of(document).kind in ("query", "mutation")


# Queries


@pytest.fixture
def ask(http_server, monkeypatch, tmp_path) -> Callable[..., Any]:
    value = {"conn_type": "http", "host": http_server.url, "password": SECRET}
    value["extra"] = {"flowrunner": {"auth": "bearer"}}
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))

    def perform(state: str = "state", max_tries: int = 3, **how: Any) -> Any:
        operator = GraphQLOperator(task_id="t", **{"query": "{ a { b } }", **how})
        return execute(operator, make_context(operator, state=FileStateStore(tmp_path / state), max_tries=max_tries))

    return perform


def test_a_query_is_sent_and_its_data_returned(ask, http_server):
    http_server.route("POST", "/graphql", json_reply({"data": {"a": {"b": 7}}}))
    result = ask(query="query Q($x: Int) { a(x: $x) { b } } query R { c }", operation_name="Q", variables={"x": 1},
                 select="a.b")  # fmt: skip
    assert (result["data"], result["errors"]) == (7, [])
    seen = http_server.requests[0]
    assert (seen.json()["variables"], seen.json()["operationName"]) == ({"x": 1}, "Q")
    assert "graphql-response+json" in seen.headers["accept"]


def test_a_query_may_be_in_a_file(ask, http_server, tmp_path, monkeypatch):
    http_server.route("POST", "/graphql", json_reply({"data": {"a": 1}}))
    (tmp_path / "q.graphql").write_text('query Named { a(run: "{{ run_id }}") }')
    from airflow.sdk import DAG

    with DAG("d", template_searchpath=[str(tmp_path)]):
        operator = GraphQLOperator(task_id="t", query="q.graphql")
    operator.resolve_template_files()
    execute(operator, make_context(operator, state=FileStateStore(tmp_path / "s"), run_id="r1"))
    assert http_server.requests[0].json()["query"] == 'query Named { a(run: "r1") }'


def failed(message: str = "bad", path: list[Any] | None = None, data: Any = "absent", **more: Any) -> Reply:
    body: dict[str, Any] = {"errors": [{"message": message, **({"path": path} if path else {}), **more}]}
    return json_reply(body if data == "absent" else {**body, "data": data})


@pytest.mark.parametrize("reply", [failed("no b", ["a", 0, "b"]), failed("no b", ["a", 0, "b"], {"a": [None]})])
def test_errors_with_status_200_are_no_success(ask, http_server, reply):
    http_server.route("POST", "/graphql", reply)
    with pytest.raises(e.Rejected, match=r"a\.0\.b: no b"):
        ask()


def test_errors_beside_data_may_be_wanted(ask, http_server):
    http_server.route("POST", "/graphql", failed("no b", ["a", "b"], {"a": {"b": None}}, extensions={"code": "X"}))
    result = ask(raise_on_errors=False)
    assert result["data"] == {"a": {"b": None}}
    assert result["errors"] == [{"message": "no b", "path": ["a", "b"], "code": "X"}]
    http_server.route("POST", "/graphql", failed(data=None))
    with pytest.raises(e.Rejected):
        ask(raise_on_errors=False, state="other")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (failed(extensions={"code": "THROTTLED"}), e.Throttled),
        (failed(type="RATE_LIMITED", data=None), e.Throttled),
        (failed(extensions={"code": "UNAUTHENTICATED"}), e.AccessDenied),
        (json_reply({"data": None}), e.Rejected),
        (json_reply({"ok": True}), e.IntegrityError),
        (json_reply([1]), e.IntegrityError),
        (Reply(200, b"<html>"), e.IntegrityError),
        (json_reply({"errors": ["odd", {"path": "x", "message": 3}]}), e.Rejected),
        (json_reply({"errors": [{"message": "syntax"}]}, 400), e.Rejected),
        (json_reply({"errors": 5}), e.Rejected),
        (json_reply({"errors": {"message": "syntax"}, "data": None}), e.Rejected),
    ],
)
def test_every_answer_without_data_is_a_typed_error(ask, http_server, reply, error):
    http_server.route("POST", "/graphql", Reply(reply.status, reply.body, {**reply.headers, "Retry-After": "99"}))
    with pytest.raises(error) as caught:
        ask()
    assert len(http_server.requests) == 1
    if error is e.Throttled:
        assert caught.value.retry_after == 99


def test_a_secret_in_an_error_is_not_shown(ask, http_server, tmp_path):
    http_server.route("POST", "/graphql", failed(f"token {SECRET} is old", ["a", "b"], {"a": None}))
    for query in ("{ a { b } }", "mutation { a { b } }"):
        with pytest.raises(e.Rejected) as caught:
            ask(query=query)
        assert SECRET not in str(caught.value)
    assert SECRET not in str(FileStateStore(tmp_path / "state").items())


def test_a_query_is_repeated(ask, http_server):
    http_server.route("POST", "/graphql", in_turn(drop(), Reply(503), json_reply({"data": {"a": 1}})))
    assert ask()["data"] == {"a": 1}


# Pages


def page(request: Request) -> Reply:
    variables = request.json()["variables"]
    start, size = int(variables.get("after", "c0")[1:]), variables.get("first", 3)
    info = {"hasNextPage": start + size < len(ROWS), "endCursor": f"c{start + size}"}
    nodes = ROWS[start : start + size]
    return json_reply({"data": {"shop": {"orders": {"nodes": nodes, "pageInfo": info}}}})


def test_all_pages_in_memory_and_in_a_file(ask, http_server, tmp_path):
    http_server.route("POST", "/graphql", page)
    how = {"query": PAGES, "page_info_path": "shop.orders.pageInfo", "page_size": 2}
    assert ask(**how)["data"] == ROWS
    path = tmp_path / "out" / "rows.jsonl"
    dataset = ask(state="2", save_to=str(path), **how)["dataset"]
    assert (dataset["rows"], [json.loads(line) for line in path.read_text().splitlines()]) == (7, ROWS)
    assert ask(state="3", nodes_path="shop.orders.nodes[].{n: id}", **how)["data"][0] == {"n": 0}
    with pytest.raises(e.IntegrityError, match="save_to"):
        ask(state="4", max_bytes=30, **how)
    with pytest.raises(e.IntegrityError, match="max_pages"):
        ask(state="5", max_pages=2, **how)


def test_one_page_may_go_to_a_file(ask, http_server, tmp_path):
    http_server.route("POST", "/graphql", page)
    result = ask(query=PAGES, nodes_path="shop.orders.nodes", save_to=str(tmp_path / "x.jsonl"))
    assert result["dataset"]["rows"] == 3


def info(**values: Any) -> Reply:
    return json_reply({"data": {"a": {"nodes": [{"id": 1}], "pageInfo": values}}})


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (info(hasNextPage=True, endCursor="same"), e.IntegrityError),
        (info(hasNextPage=True, endCursor=None), e.IntegrityError),
        (info(hasNextPage=True), e.IntegrityError),
        (info(endCursor="x"), e.ConfigError),
        (in_turn(info(hasNextPage=True, endCursor="x"), failed(data={"a": None})), e.Rejected),
        (json_reply({"data": {"a": {"nodes": None}}}), e.ConfigError),
    ],
)
def test_pages_that_do_not_add_up(ask, http_server, tmp_path, reply, error, save):
    http_server.route("POST", "/graphql", reply)
    save_to = str(tmp_path / "x.jsonl") if save else None
    with pytest.raises(error):
        ask(query="query($after: String) { a }", page_info_path="a.pageInfo", save_to=save_to)
    assert not (tmp_path / "x.jsonl").exists()
    assert len(http_server.requests) <= 3


# Mutations


@pytest.mark.parametrize("data", ["absent", None, {"pay": None}])
def test_a_mutation_that_was_refused_can_be_mended_and_cleared(ask, http_server, data):
    http_server.route("POST", "/graphql", in_turn(failed("too much", ["pay"], data), json_reply({"data": {"pay": 1}})))
    with pytest.raises(e.Rejected, match="too much"):
        ask(query=PAY, variables={"n": 1})
    assert ask(query=PAY, variables={"n": 2}, max_tries=7)["data"] == {"pay": 1}


@pytest.mark.parametrize(
    "reply",
    [
        failed("late", ["pay", "id"], None, extensions={"code": "THROTTLED"}),
        failed("half", ["b"], {"pay": 1, "b": None}),
        Reply(200, b"?"),
    ],
)
def test_a_mutation_that_was_carried_out_in_part_is_never_repeated(ask, http_server, reply):
    http_server.route("POST", "/graphql", reply)
    for tries in (3, 7):
        with pytest.raises((e.Rejected, e.IntegrityError)):
            ask(query=PAY, variables={"n": 1}, max_tries=tries)
    assert len(http_server.requests) == 1


@pytest.mark.parametrize(
    "how",
    [
        {"query": "subscription { a }"},
        {"query": ""},
        {"query": "{ a } { b }"},
        {"variables": [1]},
        {"variables": {"x": {1, 2}}},
        {"select": "]["},
        {"save_to": "/nowhere/x.jsonl"},
        {"save_to": "/nowhere/x.csv", "nodes_path": "a"},
        {"save_to": "relative.jsonl", "nodes_path": "a"},
        {"page_info_path": "a.info"},
        {"page_info_path": "a.pageInfo", "select": "a"},
        {"page_info_path": "][.pageInfo"},
        {"page_info_path": "a.pageInfo", "page_size": 0},
        {"page_info_path": "a.pageInfo", "query": "mutation { a }"},
        {"query": "mutation { a }", "reconcile": {"query": "mutation { a }", "exists_when": "a"}},
        {"query": "mutation { a }", "reconcile": {"query": "{ a }"}},
        {"query": "mutation { a }", "on_unknown": "guess"},
        {"max_bytes": 0},
        {"http_conn_id": "nowhere"},
    ],
)
def test_bad_input_is_named_before_anything_is_sent(ask, http_server, how):
    with pytest.raises(e.ConfigError) as caught:
        ask(**how)
    assert caught.value.field
    assert caught.value.remedy
    assert http_server.requests == []


# Killed


@dataclass(frozen=True)
class Scene:
    directory: Path
    url: str
    number: int


class Stage:
    """One server; each scene has an endpoint of its own that pays and lists payments."""

    def __init__(self, server: HttpServer, root: Path) -> None:
        self.server, self.root, self.paid = server, root, list[Effects]()

    def scene(self, key_header: str | None = None, lose: int = 0) -> Scene:
        paid = Effects(key_header=key_header, lose_replies=lose)

        def answer(request: Request) -> Reply:
            if "mutation" in request.json()["query"]:
                reply = paid(request)
                return reply if reply.drop else json_reply({"data": {"pay": json.loads(reply.body)}})
            if "shop" in request.json()["query"]:
                return page(request)
            return json_reply({"data": {"pay": {"id": 1} if paid.effects else None}})

        self.paid.append(paid)
        self.server.route("POST", f"/{len(self.paid)}", answer)
        return Scene(self.root / f"scene-{len(self.paid)}", self.server.url, len(self.paid))

    def paid_once(self, scene: Scene) -> None:
        assert len(self.paid[scene.number - 1].effects) == 1


@pytest.fixture
def stage(http_server, tmp_path) -> Stage:
    return Stage(http_server, tmp_path)


def run(scene: Scene, **how: Any) -> Any:
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(
        {"conn_type": "http", "host": scene.url, "extra": {"flowrunner": {"honours_idempotency_key": True}}}
    )
    operator = GraphQLOperator(task_id="t", endpoint=f"/{scene.number}", **how)
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def pay_with_key(scene: Scene) -> Any:
    return run(scene, query=PAY, variables={"n": 1}, idempotency_key=True, key_variable="key")


def pay_with_look_up(scene: Scene) -> Any:
    look_up = {"query": "query($k: ID) { pay(key: $k) { id } }", "variables": {"k": "{key}"}, "exists_when": "pay"}
    return run(scene, query=PAY, variables={"n": 1}, reconcile=look_up)


def pay_blindly(scene: Scene) -> Any:
    return run(scene, query=PAY, variables={"n": 1})


def fetch(scene: Scene) -> Any:
    pagination.CHECKPOINT_SECONDS = 0.0
    path = str(scene.directory / "out" / "rows.jsonl")
    return run(scene, query=PAGES, page_info_path="shop.orders.pageInfo", page_size=4, save_to=path)


@pytest.mark.faults
@pytest.mark.parametrize(("target", "header"), [(pay_with_key, "Idempotency-Key"), (pay_with_look_up, None)])
def test_a_mutation_happens_once_whatever_is_killed(stage, target, header):
    sweep(lambda: stage.scene(header), target, stage.paid_once)
    double_kill(lambda: stage.scene(header), target, stage.paid_once, limit=KILLS)
    random_kills(lambda: stage.scene(header), target, stage.paid_once, count=KILLS)


def at(point: str) -> bool:
    """Where zombies stop by default; FLOWRUNNER_KILLS=3: everywhere."""
    return KILLS > 2 or point.startswith(("effect.mutation.after_intent", "http."))


@pytest.mark.faults
@pytest.mark.parametrize(("target", "header"), [(pay_with_key, "Idempotency-Key"), (pay_with_look_up, None)])
def test_a_zombie_and_its_retry_mutate_once(stage, target, header):
    zombies(lambda: stage.scene(header), target, stage.paid_once, at=at)


@pytest.mark.faults
def test_a_zombie_and_its_retry_mutate_at_most_once_where_nobody_can_be_asked(stage):
    def at_most_once(scene: Scene) -> None:
        assert len(stage.paid[scene.number - 1].effects) <= 1

    def settled(outcome: Outcome) -> bool:
        return outcome.ok or outcome.error_type == "OutcomeUnknown"

    zombies(stage.scene, pay_blindly, at_most_once, at=at, done=settled)


@pytest.mark.faults
def test_a_mutation_whose_answer_is_lost_is_looked_for(stage):
    scene = stage.scene(lose=1)
    assert attempt(pay_with_look_up, scene).error_type == "OutcomeUnknown"
    second = attempt(pay_with_look_up, scene, try_number=2)
    assert second.ok, second.error
    assert second.result["reconciled"] is True
    stage.paid_once(scene)
    keyed = stage.scene("Idempotency-Key", lose=1)
    assert attempt(pay_with_key, keyed).ok
    sent = stage.paid[keyed.number - 1].effects[0]
    assert sent.json()["variables"]["key"] == sent.headers["idempotency-key"]


@pytest.mark.faults
def test_every_row_is_there_once_when_it_is_killed_between_pages(stage):
    def whole(scene: Scene) -> None:
        out = scene.directory / "out"
        assert [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()] == ROWS
        assert {path.name for path in out.iterdir()} == {"rows.jsonl"}

    points = ("http.paginate.after_page", "http.paginate.after_checkpoint", "http.paginate.before_commit")
    for point in points:  # http.paginate sweeps all of them
        scene = stage.scene()
        assert attempt(fetch, scene, rules=[kill_at(point)]).killed
        again = attempt(fetch, scene, try_number=2)
        assert again.ok, again.error
        whole(scene)
