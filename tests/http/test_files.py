"""Files in and out over HTTP, on this disk and on a real SFTP server; both far sides are looked at."""

from __future__ import annotations

import email
import email.policy
import gzip
import hashlib
import itertools
import json
import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http import bodies, download
from flowrunner_provider.http.operators import (
    HttpDownloadOperator,
    HttpPaginateOperator,
    HttpRequestOperator,
    HttpUploadOperator,
)
from tests.support.chaos_proxy import Toxics
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Blob, Effects, Reply, in_turn, json_reply, throttled

DATA = bytes(range(256)) * 9000
SHA = hashlib.sha256(DATA).hexdigest()
ROWS = [{"id": number, "name": f"row {number}"} for number in range(7)]


@pytest.fixture
def connect(monkeypatch, http_server):
    def set_connection(url="", **options):
        value = {"conn_type": "http", "host": url or http_server.url, "extra": {"flowrunner": options}}
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))

    set_connection()
    return set_connection


@pytest.fixture
def run(connect, tmp_path):
    def perform(cls, *, state="", **how):
        operator = cls(task_id="t", **how)
        name = state or str(len(list((tmp_path / "state").glob("*"))))
        return execute(operator, make_context(operator, state=FileStateStore(tmp_path / "state" / name)))

    (tmp_path / "state").mkdir()
    return perform


@pytest.fixture(params=["here", "sftp"])
def place(request, tmp_path, monkeypatch):
    """A folder and what addresses in it start with."""
    if request.param == "here":
        folder = tmp_path / "place"
        folder.mkdir()
        return folder, str(folder)
    server = request.getfixturevalue("sshd")
    value = {
        "conn_type": "sftp", "host": server.host, "port": server.port, "login": server.user,
        "extra": {"key_file": str(server.key_file), "host_key": server.host_key},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", json.dumps(value))
    folder = server.root()
    return folder, f"sftp://partner@{folder}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(server) -> list:
    """The requests that came to their end."""
    return [request for request in server.requests if len(request.body) == int(request.headers["content-length"])]


def form(request) -> list[tuple[str, str | None, str, bytes]]:
    """The parts of a form as Python's own MIME parser sees them."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    return [
        (
            part.get_param("name", header="Content-Disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_an_object_stored_with_gzip_encoding_survives_a_broken_connection(run, http_server, tmp_path):
    """As object stores send it: gzip whatever was accepted, and ranges of the encoded bytes."""
    data = random.Random(7).randbytes(3_000_000)
    blob = Blob(gzip.compress(data), [{"cut": 1_500_000}])

    def encoded(request):
        reply = blob(request)
        return replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"})

    http_server.route("GET", "/x", encoded)
    run(HttpDownloadOperator, endpoint="/x", save_to=str(tmp_path / "x.bin"))
    assert (tmp_path / "x.bin").read_bytes() == data


# http.request


def test_save_to_any_store(run, http_server, place):
    folder, root = place
    http_server.route("GET", "/x", Blob(DATA, [{"cut": 70_000}]))
    result = run(HttpRequestOperator, endpoint="/x", save_to=f"{root}/sub/x.bin")
    assert (result["path"], result["bytes"]) == (f"{root}/sub/x.bin", len(DATA))
    assert (folder / "sub" / "x.bin").read_bytes() == DATA
    assert names(folder / "sub") == ["x.bin"]


def test_a_form_with_files_from_any_store(run, http_server, place):
    folder, root = place
    (folder / 'a "b".csv').write_bytes(DATA)
    (folder / "empty").write_bytes(b"")
    http_server.route("POST", "/x", in_turn(Reply(503), json_reply({"id": 1}, 201)))
    how = {
        "endpoint": "/x",
        "method": "POST",
        "data": {"n": 1, "yes": True, "many": ["a", "b"], "none": None},
        "files": {
            "doc": f'{root}/a "b".csv',
            "more": [{"path": f"{root}/empty", "filename": "ä", "content_type": "x/y"}],
        },
        "on_unknown": "resend",
    }
    with pytest.raises(e.OutcomeUnknown):
        run(HttpRequestOperator, state="one", **how)
    assert run(HttpRequestOperator, state="one", **how)["body"] == {"id": 1}
    first, second = http_server.requests
    assert first.body == second.body, "the boundary comes from the effect: a retry sends the same bytes"
    assert int(first.headers["content-length"]) == len(first.body)
    assert "transfer-encoding" not in first.headers
    assert form(first) == [
        ("n", None, "text/plain", b"1"),
        ("yes", None, "text/plain", b"true"),
        ("many", None, "text/plain", b"a"),
        ("many", None, "text/plain", b"b"),
        ("doc", "a %22b%22.csv", "text/csv", DATA),
        ("more", "ä", "x/y", b""),
    ]


def test_a_body_from_any_store_is_put_again_after_a_lost_answer(run, http_server, place):
    folder, root = place
    (folder / "x.json").write_bytes(DATA)
    http_server.route("PUT", "/x", in_turn(Reply(drop=True), Reply(500), Reply(204)))
    assert run(HttpRequestOperator, endpoint="/x", method="PUT", body_from=f"{root}/x.json")["status"] == 204
    assert [request.body == DATA for request in http_server.requests] == [True] * 3
    assert http_server.requests[0].headers["content-type"] == "application/json"


def test_a_streamed_body_follows_a_redirect_that_asks_for_it_again(run, http_server, tmp_path):
    (tmp_path / "f").write_bytes(DATA)
    http_server.route("POST", "/x", Reply(307, headers={"Location": "/y"}))
    http_server.route("POST", "/y", Reply(201))
    run(HttpRequestOperator, endpoint="/x", method="POST", body_from=str(tmp_path / "f"))
    assert [(request.path, request.body == DATA) for request in http_server.requests] == [("/x", True), ("/y", True)]


def test_a_file_that_holds_the_boundary_is_not_sent(run, http_server, tmp_path):
    http_server.route("POST", "/x", Reply(204))
    run(HttpRequestOperator, endpoint="/x", method="POST", files={"f": __file__})
    boundary = http_server.requests[0].headers["content-type"].partition("boundary=")[2]
    evil = tmp_path / "evil"
    evil.write_bytes(b"x" * (4 * 255 * 1024 - 20) + f"\r\n--{boundary}\r\n".encode())  # across two blocks
    with pytest.raises(e.SecurityError, match="boundary"):
        run(HttpRequestOperator, endpoint="/x", method="POST", files={"f": str(evil)})
    assert len(whole(http_server)) == 1


@pytest.mark.parametrize(
    "how",
    [
        {"files": {"f": "relative"}},
        {"files": {"f": {"filename": "x"}}},
        {"files": {"f": {"path": "/x", "name": "x"}}},
        {"files": {"f": "/"}},
        {"files": {"f": "/x"}, "json": {}},
        {"files": {"f": "/x"}, "data": "text"},
        {"files": ["/x"]},
        {"files": {"f": {"path": __file__, "content_type": "a\r\nb"}}},
        {"files": {"f": __file__}, "data": {"a": {}}},
        {"body_from": "/x", "json": {}},
        {"body_from": "x"},
        {"body_from": "ftp://x@/y"},
        {"body_from": "sftp://nowhere@/y"},
        {"save_to": "s4://x/y"},
        {"save_to": "sftp://nowhere@/y"},
        {"select": "a", "response_format": "text"},
    ],
)
def test_bad_input_is_named_before_anything_is_sent(run, http_server, how):
    with pytest.raises(e.ConfigError) as caught:
        run(HttpRequestOperator, endpoint="/x", method="POST", **how)
    assert caught.value.field
    assert caught.value.remedy
    assert http_server.requests == []


# http.download


@pytest.mark.parametrize("cut", [0, 1, len(DATA) // 4, len(DATA) // 2, len(DATA) * 99 // 100, len(DATA) - 1])
def test_a_download_is_resumed_from_what_the_store_holds(run, http_server, place, cut):
    folder, root = place
    http_server.route("GET", "/f", Blob(DATA, [{"cut": cut, "rst": cut % 2 == 1}]))
    result = run(HttpDownloadOperator, endpoint="/f", save_to=f"{root}/in/f", checksum=f"sha256:{SHA}")
    assert (result["path"], result["bytes"], result["changed"]) == (f"{root}/in/f", len(DATA), True)
    assert (folder / "in" / "f").read_bytes() == DATA
    assert names(folder / "in") == ["f"]
    if cut > 1 and cut % 2 == 0:  # a reset may take what was on its way along, even all of it
        assert http_server.requests[1].headers["range"].startswith("bytes=")


def test_a_download_that_is_always_cut_is_an_integrity_error(run, http_server, place):
    folder, root = place
    http_server.route("GET", "/f", Reply(200, DATA, cut=1000))
    with pytest.raises(e.IntegrityError, match="4 times"):
        run(HttpDownloadOperator, endpoint="/f", save_to=f"{root}/f")
    with pytest.raises(e.IntegrityError, match="4 times"):
        run(HttpRequestOperator, endpoint="/f", save_to=f"{root}/g")
    assert names(folder) == []


def test_the_server_may_name_the_file_on_any_store(run, http_server, place):
    folder, root = place
    http_server.route("GET", "/d/f.bin", Reply(200, b"1", {"Content-Disposition": "attachment; filename=a.csv"}))
    assert run(HttpDownloadOperator, endpoint="/d/f.bin", save_to=root)["path"] == f"{root}/a.csv"
    assert run(HttpDownloadOperator, endpoint="/d/f.bin", save_to=f"{root}/", if_exists="skip")["skipped"] is True
    with pytest.raises(e.AlreadyExists):
        run(HttpDownloadOperator, endpoint="/d/f.bin", save_to=f"{root}/a.csv", if_exists="fail")
    assert names(folder) == ["a.csv"]


def test_only_what_has_changed_is_downloaded(run, http_server, place):
    folder, root = place
    blob = Blob(DATA)
    http_server.route("GET", "/f", blob)
    how = {"endpoint": "/f", "save_to": f"{root}/f", "only_if_changed": True}
    assert [run(HttpDownloadOperator, **how)["changed"] for _ in range(2)] == [True, False]
    assert http_server.requests[1].headers["if-none-match"] == blob.etag
    assert names(folder) == [".f.version.json", "f"]
    (folder / "f").write_bytes(b"mine")
    assert run(HttpDownloadOperator, **how)["changed"] is True, "somebody else has written the file"
    blob.data = b"new"
    assert run(HttpDownloadOperator, **how)["changed"] is True
    assert (folder / "f").read_bytes() == b"new"
    with pytest.raises(e.ConfigError):
        run(HttpDownloadOperator, **{**how, "if_exists": "skip"})
    with pytest.raises(e.ConfigError):
        run(HttpDownloadOperator, **{**how, "save_to": f"{root}/"})


# http.paginate


def odata(request) -> Reply:
    start = int(request.query.get("$skiptoken", ["0"])[0])
    body = {"@odata.count": len(ROWS), "value": ROWS[start : start + 3]}
    if start + 3 < len(ROWS):
        query = f"$filter={request.query['$filter'][0]}&$skiptoken={start + 3}"
        body["@odata.nextLink"] = f"http://{request.headers['host']}/x?{query}"
    return json_reply(body)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_pages_of_odata_go_to_any_store(run, http_server, place, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "state"))
    folder, root = place
    http_server.route("GET", "/x", odata)
    result = run(
        HttpPaginateOperator,
        endpoint="/x",
        save_to=f"{root}/sub/rows.{suffix}",
        strategy="odata",
        query={"$filter": "a eq 1"},
        headers={"X-Scope": "all"},
        page_size=3,
    )
    assert (result["path"], result["rows"], result["format"]) == (f"{root}/sub/rows.{suffix}", 7, suffix)
    path = folder / "sub" / f"rows.{suffix}"
    if suffix == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(path).to_pylist() == ROWS
    else:
        assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    assert result["bytes"] == path.stat().st_size
    assert names(folder / "sub") == [f"rows.{suffix}"]
    assert [name for name in names(tmp_path / "state") if name.startswith("flowrunner")] == []
    seen = http_server.requests
    assert [request.query["$filter"] for request in seen] == [["a eq 1"]] * 3
    assert {(request.headers["x-scope"], request.headers["prefer"]) for request in seen} == {("all", "maxpagesize=3")}


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ({"value": [], "@odata.nextLink": "http://evil.example/x"}, e.TargetForbidden),
        ({"value": [{}], "@odata.count": 2}, e.IntegrityError),
        ({"value": [{}], "@odata.nextLink": "/x?again"}, e.IntegrityError),
    ],
)
def test_odata_that_does_not_add_up(run, http_server, tmp_path, page, error):
    http_server.route("GET", "/x", json_reply(page))
    with pytest.raises(error):
        run(HttpPaginateOperator, endpoint="/x", save_to=str(tmp_path / "r.jsonl"), strategy="odata")
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("place_of", ["query", "body"])
@pytest.mark.parametrize(
    ("strategy", "sent"), [("cursor", [None, 3, 6]), ("page", [1, 2, 3, 4]), ("offset", [0, 3, 6, 7])]
)
def test_query_headers_and_body_survive_page_one(run, http_server, tmp_path, place_of, strategy, sent):
    """Pages after the first one that forgot them lost data elsewhere (#71649, #71866, #71986)."""
    name = {"cursor": "cursor", "page": "page", "offset": "offset"}[strategy]

    def api(request) -> Reply:
        given = request.json() if place_of == "body" else {k: int(v[0]) for k, v in request.query.items() if k == name}
        start = (given.get("page", 1) - 1) * 3 if strategy == "page" else given.get(name, 0)
        return json_reply({"data": ROWS[start : start + 3], "next": start + 3 if start + 3 < len(ROWS) else None})

    http_server.route("*", "/x", api)
    more = {"method": "POST", "json": {"filter": {"a": 1}}} if place_of == "body" else {}
    path = tmp_path / "r.jsonl"
    run(
        HttpPaginateOperator, endpoint="/x", save_to=str(path), strategy=strategy, records_path="data",
        cursor_path="next", query={"q": "ä b"}, headers={"X-Scope": "all"}, **more,
    )  # fmt: skip
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    seen = http_server.requests
    assert all(request.query["q"] == ["ä b"] and request.headers["x-scope"] == "all" for request in seen)
    if place_of == "body":
        assert [request.json() for request in seen] == [
            {"filter": {"a": 1}, **({} if position is None else {name: position})} for position in sent
        ]
    else:
        assert [request.query.get(name) for request in seen] == [None if p is None else [str(p)] for p in sent]


def test_a_throttling_storm_costs_at_most_a_fifth_more_and_nobody_is_early(run, http_server, tmp_path):
    """30 % of the requests are throttled with Retry-After: 1; each is repeated once, and not before."""
    pages, throttles = 10, {3, 6, 9}
    seen: list[tuple[float, bool]] = []
    lock = threading.Lock()

    def storm(request) -> Reply:
        with lock:
            number = len(seen) + 1
            seen.append((time.monotonic(), number in throttles))
        if number in throttles:
            return throttled("1")
        page = int(request.query["page"][0])
        return json_reply([{"id": page}] if page <= pages else [])

    http_server.route("GET", "/x", storm)
    path = tmp_path / "r.jsonl"
    run(HttpPaginateOperator, endpoint="/x", save_to=str(path), strategy="page")
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == list(range(1, pages + 1))
    assert len(seen) <= 1.2 * (pages + 1 + len(throttles))
    waits = [after[0] - before[0] for before, after in itertools.pairwise(seen) if before[1]]
    assert min(waits) >= 0.95


# http.upload


@pytest.mark.parametrize("mode", ["multipart", "raw"])
def test_many_files_are_sent_once_each(run, http_server, place, mode):
    folder, root = place
    for number in range(4):
        (folder / f"f {number}.csv").write_bytes(DATA[number:])
    refuse = {"f 2.csv"}
    effects = {name: Effects() for name in names(folder)}

    def take(request) -> Reply:
        name = form(request)[1][1] if mode == "multipart" else request.path.rpartition("/")[2].replace("%20", " ")
        return Reply(400) if name in refuse else effects[name](request)

    http_server.route("*", "*", take)
    how = {"source": f"{root}/*.csv", "mode": mode, "endpoint": "/up" if mode == "multipart" else "/up/{name}"}
    how |= {"metadata": {"run": "r"}} if mode == "multipart" else {"method": "POST"}
    with pytest.raises(e.PartialFailure) as caught:
        run(HttpUploadOperator, state="one", select="id", **how)
    assert (caught.value.done, list(caught.value.failed)) == (3, [f"{root}/f 2.csv"])
    assert caught.value.retryable is False
    refuse.clear()
    result = run(HttpUploadOperator, state="one", select="id", **how)
    assert (result["files"], result["bytes"]) == (4, 4 * len(DATA) - 6)
    assert [entry["answer"] for entry in result["entries"]] == [1, 1, 1, 1]
    assert [len(effect.effects) for effect in effects.values()] == [1] * 4
    assert len(http_server.requests) == 5
    for number, effect in enumerate(effects.values()):
        request = effect.effects[0]
        assert int(request.headers["content-length"]) == len(request.body)
        sent = form(request)[1][3] if mode == "multipart" else request.body
        assert sent == DATA[number:]


def test_a_presigned_address_gets_no_credentials_and_is_not_shown(connect, run, http_server, tmp_path, caplog):
    connect(auth="bearer", headers={"X-Own": "own-secret-value"})
    value = json.loads(os.environ["AIRFLOW_CONN_HTTP_DEFAULT"]) | {"password": "the-token-4711"}
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps(value)
    (tmp_path / "f").write_bytes(DATA)
    query = "X-Amz-Signature=5ecre7519na7ure&X-Amz-Credential=AKIAEXAMPLE%2F20260101&x=odd5ecre7"
    signed = f"{http_server.url}/bucket/f?{query}"
    http_server.route("PUT", "/bucket/f", in_turn(Reply(200, headers={"ETag": '"1"'}), Reply(403, signed.encode())))
    how = {"source": str(tmp_path / "f"), "endpoint": signed, "mode": "presigned_put"}
    result = run(HttpUploadOperator, **how)
    assert result["entries"][0]["etag"] == '"1"'
    with pytest.raises(e.AccessDenied) as caught:
        run(HttpUploadOperator, **how)
    for request in http_server.requests:
        assert "authorization" not in request.headers
        assert "x-own" not in request.headers
    assert http_server.requests[0].query["X-Amz-Signature"] == ["5ecre7519na7ure"]
    shown = str(caught.value) + caplog.text + json.dumps(result)
    shown += "".join(path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for secret in ("5ecre7519na7ure", "AKIAEXAMPLE", "odd5ecre7"):
        assert secret not in shown


def test_a_source_that_changes_while_it_is_sent_never_arrives_whole(run, http_server, tmp_path, chaos):
    http_server.route("POST", "/up", Reply(201))
    source = tmp_path / "f"
    source.write_bytes(DATA * 4)
    check = bodies.Pinned.check

    async def changed(self) -> None:
        with source.open("ab") as file:
            file.write(b"more")
        await check(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies.Pinned, "check", changed)
        with pytest.raises(e.IntegrityError, match="changed"):
            run(HttpUploadOperator, state="one", source=str(source), endpoint="/up")
    assert whole(http_server) == []
    http_server.requests.clear()
    assert run(HttpUploadOperator, state="one", source=str(source), endpoint="/up")["files"] == 1


@pytest.mark.parametrize("part", [0, 1, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("rst", [True, False])
def test_an_upload_that_breaks_off_is_sent_again_and_arrives_once(
    connect, run, http_server, tmp_path, chaos, part, rst
):
    proxy = chaos(http_server.host, http_server.port)
    connect(f"http://127.0.0.1:{proxy.port}")
    posted, large = Effects(key_header=None), DATA * 6
    http_server.route("POST", "/up", lambda r: posted(r) if len(r.body) == len(large) else Reply(400))
    (tmp_path / "f").write_bytes(large)
    cut = part if isinstance(part, int) else int(len(large) * part)
    proxy.toxics = Toxics(cut_up=cut, rst=rst, connections=1)
    try:
        run(HttpUploadOperator, state="one", source=str(tmp_path / "f"), endpoint="/up", mode="raw", method="POST")
    except e.OutcomeUnknown:
        assert cut > 1, "the last block was with the kernel already, and nobody can tell"
        assert posted.effects == []
    else:
        assert [request.body == large for request in posted.effects] == [True]


def test_an_answer_that_is_lost_is_asked_after(run, http_server, tmp_path):
    posted = Effects(key_header=None, lose_replies=1)
    http_server.route("POST", "/up", posted)
    http_server.route("GET", "/up", lambda _: json_reply({"items": [{"id": 9}] * len(posted.effects)}))
    (tmp_path / "f").write_bytes(DATA)
    how = {"source": str(tmp_path / "f"), "endpoint": "/up", "select": "items[0].id || id"}
    how["reconcile"] = {"endpoint": "/up?key={key}&name={name}", "exists_when": "items[0]"}
    with pytest.raises(e.OutcomeUnknown):
        run(HttpUploadOperator, state="one", **how)
    entry = run(HttpUploadOperator, state="one", **how)["entries"][0]
    assert (entry["reconciled"], entry["answer"], len(posted.effects)) == (True, 9, 1)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "form"},
        {"method": "GET"},
        {"mode": "raw", "metadata": {"a": 1}},
        {"mode": "presigned_put"},
        {"mode": "presigned_put", "endpoint": "http://10.0.0.1/x", "query": {"a": 1}},
        {"mode": "presigned_put", "endpoint": "http://10.0.0.1/x", "method": "POST"},
        {"source": "relative"},
        {"source": [__file__, __file__]},
        {"endpoint": ["/a", "/b"]},
        {"source": [__file__, json.__file__], "mode": "raw"},
        {"source": [__file__, json.__file__], "idempotency_key": "x"},
        {"source": "sftp://nowhere@/x"},
        {"concurrency": 0},
        {"max_files": 0},
        {"http_conn_id": "nowhere"},
        {"reconcile": {"endpoint": "/x"}},
        {"select": "]["},
    ],
)
def test_bad_uploads_are_named_before_anything_is_sent(run, http_server, how):
    with pytest.raises(e.ConfigError) as caught:
        run(HttpUploadOperator, **{"source": __file__, "endpoint": "/up", **how})
    assert caught.value.field
    assert caught.value.remedy
    assert http_server.requests == []


def test_nothing_to_send_is_no_success(run, http_server, tmp_path):
    for source in (str(tmp_path / "*.csv"), str(tmp_path / "nothing")):
        with pytest.raises(e.NotFound):
            run(HttpUploadOperator, source=source, endpoint="/up")
    assert http_server.requests == []


def test_a_checkpointed_download_goes_on_in_the_next_attempt(run, http_server, place, monkeypatch):
    folder, root = place
    monkeypatch.setattr(download, "CHECKPOINT_SECONDS", 0.0)
    http_server.route("GET", "/f", in_turn(Blob(DATA, [{"cut": 1_000_000}]), Reply(403), Blob(DATA)))
    with pytest.raises(e.FlowRunnerError):
        run(HttpDownloadOperator, state="one", endpoint="/f", save_to=f"{root}/f")
    run(HttpDownloadOperator, state="one", endpoint="/f", save_to=f"{root}/f", checksum=SHA)
    start = int(http_server.requests[-1].headers["range"].removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 1_000_000
    assert (folder / "f").read_bytes() == DATA
