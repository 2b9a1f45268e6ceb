"""The three actions as a DAG runs them, against a server whose side is looked at."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.operators import HttpDownloadOperator, HttpPaginateOperator, HttpRequestOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Blob, HttpServer, Reply, drop, in_turn, json_reply, throttled

ROWS = [{"id": number} for number in range(7)]
SECRET = "s3cr3t-canary-0815"


@pytest.fixture
def connect(monkeypatch, http_server):
    def set_connection(extra=None, **fields):
        value = {"conn_type": "http", "host": http_server.url, **fields, "extra": extra or {}}
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))

    set_connection()
    return set_connection


@pytest.fixture
def run(connect, tmp_path):
    def perform(cls, **how):
        operator = cls(task_id="t", **how)
        state = FileStateStore(tmp_path / "state" / str(len(list(tmp_path.rglob("calls")))))
        return execute(operator, make_context(operator, state=state))

    return perform


# http.request


def test_json_is_really_sent_and_read(run, http_server):
    http_server.route("POST", "/x", json_reply({"data": {"id": 7}}, 201, **{"Set-Cookie": "a=b"}))
    result = run(HttpRequestOperator, endpoint="/x", method="POST", json={"a": 1}, select="data.id")
    assert (result["status"], result["body"]) == (201, 7)
    assert "Set-Cookie" not in result["headers"]
    seen = http_server.requests[0]
    assert seen.json() == {"a": 1}
    assert seen.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("data", "body", "kind"),
    [
        ({"a": [1, 2], "b": "ä"}, b"a=1&a=2&b=%C3%A4", "application/x-www-form-urlencoded"),
        ("<x/>", b"<x/>", "text/plain"),
    ],
)
def test_forms_and_text(run, http_server, data, body, kind):
    http_server.route("PUT", "/x", Reply(204))
    assert run(HttpRequestOperator, endpoint="x", method="PUT", data=data)["body"] is None
    assert http_server.requests[0].body == body
    assert http_server.requests[0].headers["content-type"].startswith(kind)


@pytest.mark.parametrize(
    ("reply", "wanted", "body"),
    [
        (json_reply([1]), "auto", [1]),
        (Reply(200, "ä".encode("latin-1"), {"Content-Type": "text/plain; charset=latin-1"}), "auto", "ä"),
        (Reply(200, "ä".encode(), {"Content-Type": "text/plain; charset=undefined"}), "auto", "ä"),
        (Reply(200, "ä".encode(), {"Content-Type": "text/plain; charset=idna"}), "auto", "ä"),
        (Reply(200, b"\0\xff", {"Content-Type": "image/png"}), "auto", base64.b64encode(b"\0\xff").decode()),
        (Reply(200, b"{}"), "json", {}),
        (json_reply([1]), "text", "[1]"),
    ],
)
def test_response_formats(run, http_server, reply, wanted, body):
    http_server.route("GET", "/x", reply)
    assert run(HttpRequestOperator, endpoint="/x", response_format=wanted)["body"] == body


def test_a_result_that_is_too_large_says_where_it_belongs(run, http_server, tmp_path):
    http_server.route("GET", "/x", Reply(200, b"x" * 1000))
    with pytest.raises(e.IntegrityError, match="save_to"):
        run(HttpRequestOperator, endpoint="/x", max_bytes=999)
    result = run(HttpRequestOperator, endpoint="/x", save_to=str(tmp_path / "sub" / "x.bin"))
    assert (result["bytes"], result["body"]) == (1000, None)
    assert (tmp_path / "sub" / "x.bin").read_bytes() == b"x" * 1000


def test_an_answer_to_a_post_that_cannot_be_used_is_not_asked_for_again(run, http_server, tmp_path, connect):
    http_server.route("POST", "/x", Reply(200, b"no json"))
    state = FileStateStore(tmp_path / "one")
    for _ in range(2):
        operator = HttpRequestOperator(task_id="t", endpoint="/x", method="POST", select="id")
        with pytest.raises(e.IntegrityError):
            execute(operator, make_context(operator, state=state))
    assert len(http_server.requests) == 1


def test_expected_status(run, http_server):
    http_server.route("*", "/x", Reply(404))
    assert run(HttpRequestOperator, endpoint="/x", expected_status=[200, 404])["status"] == 404
    http_server.route("*", "/x", Reply(200))
    with pytest.raises(e.Rejected):
        run(HttpRequestOperator, endpoint="/x", expected_status=[201])
    with pytest.raises(e.OutcomeUnknown):
        run(HttpRequestOperator, endpoint="/x", method="POST", expected_status=[201])


@pytest.mark.parametrize(
    "how",
    [
        {"json": {}, "data": "x", "method": "POST"},
        {"method": "FETCH"},
        {"select": "]["},
        {"save_to": "relative"},
        {"json": {1, 2}, "method": "POST"},
        {"reconcile": {"endpoint": "/x"}, "method": "POST"},
        {"http_conn_id": "nowhere"},
        {"response_format": "yaml"},
        {"max_bytes": 0},
        {"timeout": "soon"},
    ],
)
def test_bad_input_is_named_before_anything_is_sent(run, http_server, how):
    with pytest.raises(e.ConfigError) as caught:
        run(HttpRequestOperator, endpoint="/x", **how)
    assert caught.value.field
    assert caught.value.remedy
    assert http_server.requests == []


def test_dag_params_are_not_sent_as_query(connect, http_server):
    from airflow.sdk import DAG

    http_server.route("GET", "/x", Reply(204))
    with DAG("d", params={"private": "value"}):
        operator = HttpRequestOperator(task_id="t", endpoint="/x", query={"a": 1})
    execute(operator, make_context(operator))
    assert http_server.requests[0].query == {"a": ["1"]}


# http.paginate


def api(request) -> Reply:
    """Cursor, page, offset, Link and next address at once; pages of 3."""
    query = {name: int(values[0]) for name, values in request.query.items() if values[0].isdigit()}
    start = query.get("cursor", query.get("offset", (query.get("page", 1) - 1) * 3))
    body = {"data": ROWS[start : start + 3], "total": len(ROWS), "last": start + 3 >= len(ROWS)}
    headers = {}
    if not body["last"]:
        body |= {"next": start + 3, "url": f"/x?cursor={start + 3}"}
        headers["Link"] = f'</x?cursor=0>; rel="first", </x?a=1,2&cursor={start + 3}>; title="a, b"; rel="next"'
    return json_reply(body, **headers)


STRATEGIES = [
    ("cursor", {"cursor_path": "next"}, 3),
    ("next_url", {"cursor_path": "url"}, 3),
    ("link_header", {}, 3),
    ("page", {}, 4),
    ("page", {"total_path": "total"}, 3),
    ("page", {"stop_when": "last"}, 3),
    ("offset", {"page_size": 100}, 4),
]


@pytest.mark.parametrize(("strategy", "how", "requests"), STRATEGIES)
def test_every_strategy_brings_every_record_once(run, http_server, tmp_path, strategy, how, requests):
    http_server.route("GET", "/x", api)
    path = tmp_path / "rows.jsonl"
    result = run(HttpPaginateOperator, endpoint="/x", save_to=str(path), strategy=strategy, records_path="data", **how)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    assert (result["rows"], result["columns"], result["format"]) == (7, {"id": "integer"}, "jsonl")
    assert result["bytes"] == path.stat().st_size
    assert len(http_server.requests) == requests


@pytest.mark.parametrize(
    ("body", "how", "error"),
    [
        ({"data": [{}], "next": 1}, {}, e.IntegrityError),
        ({"items": []}, {}, e.ConfigError),
        ({"data": [1]}, {}, e.ConfigError),
        ({"data": {}}, {}, e.ConfigError),
        ({"data": [{}], "total": 2}, {"total_path": "total"}, e.IntegrityError),
        ({"data": [{}]}, {"total_path": "total"}, e.ConfigError),
        ({"data": [{}, {}]}, {"strategy": "page"}, e.IntegrityError),
        ({"data": [{}], "next": {}}, {}, e.ConfigError),
        ({"data": [], "next": "http://10.0.0.1/"}, {"strategy": "next_url"}, e.TargetForbidden),
        ({"data": [], "next": "//evil.example/"}, {"strategy": "next_url"}, e.TargetForbidden),
    ],
)
def test_pages_that_do_not_add_up_are_errors(run, http_server, tmp_path, body, how, error):
    http_server.route("GET", "/x", json_reply(body))
    arguments = {"strategy": "cursor", "cursor_path": "next", "records_path": "data", **how}
    with pytest.raises(error):
        run(HttpPaginateOperator, endpoint="/x", save_to=str(tmp_path / "r.jsonl"), **arguments)
    assert not (tmp_path / "r.jsonl").exists()


def test_a_circle_of_any_length_is_found(run, http_server, tmp_path):
    def circle(request) -> Reply:
        return json_reply([{"n": f"c{(int(request.query.get('cursor', ['c0'])[0][1:]) + 1) % 7}"}])

    http_server.route("GET", "/x", circle)
    with pytest.raises(e.IntegrityError, match="circle"):
        run(
            HttpPaginateOperator,
            endpoint="/x",
            save_to=str(tmp_path / "r.jsonl"),
            strategy="cursor",
            cursor_path="[0].n",
        )
    assert len(http_server.requests) < 30
    assert list(tmp_path.glob(".*part")) == []


def test_more_pages_than_agreed_are_an_error(run, http_server, tmp_path):
    http_server.route("GET", "/x", api)
    with pytest.raises(e.IntegrityError, match="max_pages"):
        run(
            HttpPaginateOperator,
            endpoint="/x",
            save_to=str(tmp_path / "r.jsonl"),
            strategy="page",
            records_path="data",
            max_pages=2,
        )


def test_pages_survive_throttling_resets_and_server_errors(run, http_server, tmp_path):
    http_server.route(
        "GET", "/x", in_turn(throttled("0"), Reply(500), api, drop(), throttled("0", 503), api, drop(rst=True), api)
    )
    path = tmp_path / "rows.jsonl"
    run(
        HttpPaginateOperator,
        endpoint="/x",
        save_to=str(path),
        strategy="cursor",
        records_path="data",
        cursor_path="next",
    )
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS


# http.download

DATA = bytes(range(256)) * 2000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("cut", [0, 1, 128_000, 256_000, 506_880, 511_999])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_taken_up_where_it_broke(run, http_server, tmp_path, cut, ranges):
    http_server.route("GET", "/f", Blob(DATA, [{"cut": cut}], ranges=ranges))
    result = run(HttpDownloadOperator, endpoint="/f", save_to=str(tmp_path / "f"), checksum=f"sha256:{SHA}")
    assert (tmp_path / "f").read_bytes() == DATA
    assert (result["bytes"], result["checksum"]) == (len(DATA), f"sha256:{SHA}")
    if ranges and cut:
        assert http_server.requests[1].headers["range"] == f"bytes={cut}-"
        assert http_server.requests[1].headers["if-range"] == Blob(DATA).etag
    assert http_server.requests[0].headers["accept-encoding"] == "identity"


def test_a_file_that_changes_under_the_download_is_fetched_afresh(run, http_server, tmp_path):
    blob = Blob(DATA, [{"cut": 300_000}])
    new = DATA[::-1]

    def changing(request) -> Reply:
        reply = blob(request)
        blob.data = new
        return reply

    http_server.route("GET", "/f", changing)
    run(HttpDownloadOperator, endpoint="/f", save_to=str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == new


def test_a_wrong_range_is_not_glued_on(run, http_server, tmp_path):
    wrong = Reply(206, DATA[5:], {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}", "ETag": Blob(DATA).etag})
    http_server.route("GET", "/f", in_turn(Blob(DATA, [{"cut": 1000}]), wrong))
    with pytest.raises(e.IntegrityError, match="Content-Range"):
        run(HttpDownloadOperator, endpoint="/f", save_to=str(tmp_path / "f"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 64, "f" * 32])
def test_a_wrong_checksum_leaves_nothing(run, http_server, tmp_path, checksum):
    http_server.route("GET", "/f", Blob(DATA))
    with pytest.raises(e.IntegrityError):
        run(HttpDownloadOperator, endpoint="/f", save_to=str(tmp_path / "f"), checksum=checksum)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_if_exists(run, http_server, tmp_path):
    http_server.route("GET", "/f", Blob(DATA))
    target = tmp_path / "f"
    target.write_bytes(b"old")
    assert run(HttpDownloadOperator, endpoint="/f", save_to=str(target), if_exists="skip")["skipped"] is True
    with pytest.raises(e.AlreadyExists):
        run(HttpDownloadOperator, endpoint="/f", save_to=str(target), if_exists="fail")
    assert (target.read_bytes(), http_server.requests) == (b"old", [])
    run(HttpDownloadOperator, endpoint="/f", save_to=str(target))
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("disposition", "name"),
    [("attachment; filename=a.csv", "a.csv"), ("attachment; filename*=UTF-8''%C3%A4.csv", "ä.csv"), ("", "f.bin")],
)
def test_the_server_may_name_the_file(run, http_server, tmp_path, disposition, name):
    http_server.route("GET", "/d/f.bin", Reply(200, b"1", {"Content-Disposition": disposition}))
    run(HttpDownloadOperator, endpoint="/d/f.bin", save_to=f"{tmp_path / 'in'}/")
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]


@pytest.mark.parametrize("name", ["../x", "..%2fx", "/etc/x/../y", ".."])
def test_the_server_may_not_name_a_folder(run, http_server, tmp_path, name):
    http_server.route("GET", "/f", Reply(200, b"1", {"Content-Disposition": f'attachment; filename="{name}"'}))
    with pytest.raises(e.PathEscape):
        run(HttpDownloadOperator, endpoint="/f", save_to=f"{tmp_path / 'in'}/")
    assert not (tmp_path / "in").exists()


def test_max_bytes_of_a_download(run, http_server, tmp_path):
    for reply in (Blob(DATA), Reply(200, chunks=(DATA,))):
        http_server.route("GET", "/f", reply)
        with pytest.raises(e.IntegrityError):
            run(HttpDownloadOperator, endpoint="/f", save_to=str(tmp_path / "f"), max_bytes=1000)


# Secrets


def test_no_secret_of_the_connection_shows_anywhere(connect, run, http_server, caplog, tmp_path):
    connect({"X-Custom": SECRET, "flowrunner": {"auth": "bearer"}}, password=SECRET + "-token")
    http_server.route("*", "/x", Reply(400, f"echo {SECRET} {SECRET}-token".encode()))
    with pytest.raises(e.Rejected) as caught:
        run(HttpRequestOperator, endpoint="/x")
    seen = http_server.requests[0].headers
    assert (seen["x-custom"], seen["authorization"]) == (SECRET, f"Bearer {SECRET}-token")
    assert SECRET not in str(caught.value) + caplog.text
    stored = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert SECRET not in stored


def test_a_connection_of_the_official_hook_does_not_leak_its_headers_on_a_redirect(connect, run, http_server):
    with HttpServer() as other:
        other.route("GET", "/there", Reply(200))
        connect({"X-Api-Key": SECRET, "flowrunner": {"allow_hosts": ["127.0.0.1"]}})
        http_server.route("GET", "/x", Reply(302, headers={"Location": f"{other.url}/there"}))
        run(HttpRequestOperator, endpoint="/x")
        assert http_server.requests[0].headers["x-api-key"] == SECRET
        assert "x-api-key" not in other.requests[0].headers
