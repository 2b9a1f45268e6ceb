"""files.presign: Ceph's gateway and Azurite judge the signatures, Google's own library those for Google."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.operators import FilePresignOperator
from flowrunner_provider.files.stores.gcs_sign import signed_url
from tests.files.clouds import azure_connection, gcs_connection
from tests.files.s3 import Bucket, connection_of
from tests.support.context import execute, make_context

NAME = "in/a b+ü%41~.txt"
BLOCK = {"x-ms-blob-type": "BlockBlob"}


def presign(tmp_path, path: Any, **options: Any) -> dict[str, Any]:
    operator = FilePresignOperator(task_id="p", path=path, **options)
    return execute(operator, make_context(operator, state=tmp_path / "state"))


def status(method: str, url: str, **more: Any) -> int:
    return requests.request(method, url, timeout=10, **more).status_code


@pytest.fixture
def far(request, monkeypatch) -> tuple[Any, str]:
    """A far side and the address of its root."""
    if request.param == "s3":
        server = request.getfixturevalue("rgw")
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", connection_of(server))
        bucket = Bucket(server)
        return bucket, f"s3://lake@{bucket.root}"
    server = request.getfixturevalue("azurite")
    container = server.container()
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", azure_connection(server.connection_string))
    return container, f"wasb://blobs@{container.name}{container.root}"


@pytest.mark.backend
@pytest.mark.parametrize("far", ["s3", "azure"], indirect=True)
def test_a_url_opens_one_file_in_one_way(far, tmp_path):
    there, root = far
    there.put(NAME, b"secret")
    there.put("other", b"other")
    result = presign(tmp_path, f"{root}/{NAME}", expires="5m")
    url = result["url"]
    assert requests.get(url, timeout=10).content == b"secret"
    assert result["files"] == [{"path": f"{root}/{NAME}", "url": url, "expires_at": result["expires_at"]}]
    left = datetime.fromisoformat(result["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)
    parts = urlsplit(url)
    for bad in (
        parts._replace(path=parts.path.rpartition("in/")[0] + "other"),
        parts._replace(query=""),
        parts._replace(query=parts.query[:-8] + ("A" if parts.query[-8] != "A" else "B") + parts.query[-7:]),
    ):
        assert status("GET", bad.geturl()) in (401, 403, 404)
    for method in ("PUT", "DELETE"):
        assert status(method, url, data=b"theirs", headers=BLOCK) == 403
    assert there.get(NAME) == b"secret"


@pytest.mark.backend
@pytest.mark.parametrize("far", ["s3", "azure"], indirect=True)
def test_a_url_to_write(far, tmp_path):
    there, root = far
    urls = [one["url"] for one in presign(tmp_path, [f"{root}/{NAME}", f"{root}/b"], method="PUT")["files"]]
    for url in urls:
        assert status("PUT", url, data=b"theirs", headers=BLOCK) in (200, 201)
        assert status("GET", url) == 403
    assert there.get(NAME) == there.get("b") == b"theirs"


@pytest.mark.backend
@pytest.mark.parametrize("far", ["s3", "azure"], indirect=True)
def test_a_url_ends(far, tmp_path):
    there, root = far
    there.put("a", b"secret")
    url = presign(tmp_path, f"{root}/a", expires="1s")["url"]
    time.sleep(2.1)
    assert status("GET", url) == 403


@pytest.mark.backend
@pytest.mark.parametrize("far", ["s3", "azure"], indirect=True)
def test_the_url_is_kept_from_logs_and_from_the_state(far, tmp_path, monkeypatch):
    from flowrunner_provider.runtime.masking import redact

    there, root = far
    there.put("a", b"secret")
    told: list[str] = []
    monkeypatch.setattr("flowrunner_provider.runtime.masking.mask_secret", told.append)
    url = presign(tmp_path, f"{root}/a")["url"]
    assert url in told
    assert urlsplit(url).query not in redact(f"GET {url} failed")
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in written if urlsplit(url).query in text or json.dumps(url)[1:-1] in text]


@pytest.fixture(scope="module")
def service_account() -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account", "client_email": "robot@example.iam.gserviceaccount.com", "private_key": pem,
        "token_uri": "http://127.0.0.1:1/token", "project_id": "p",
    }  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("endpoint", ["https://storage.googleapis.com", "http://127.0.0.1:4443"])
def test_googles_own_library_signs_the_same(service_account, method, endpoint):
    from google.cloud.storage import Client
    from google.oauth2.service_account import Credentials

    credentials = Credentials.from_service_account_info(service_account)
    blob = Client(project="p", credentials=credentials).bucket("raw").blob(NAME)
    theirs = urlsplit(
        blob.generate_signed_url(
            version="v4", expiration=timedelta(minutes=5), method=method, api_access_endpoint=endpoint
        )
    )
    when = dict(parse_qsl(theirs.query))["X-Goog-Date"]
    now = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = urlsplit(signed_url(credentials, endpoint, "raw", NAME, method, timedelta(minutes=5), now))
    assert ours[:3] == theirs[:3]
    assert dict(parse_qsl(ours.query)) == dict(parse_qsl(theirs.query))


@pytest.mark.backend
def test_a_url_of_google(service_account, fake_gcs, tmp_path, monkeypatch):
    bucket = fake_gcs.bucket()
    bucket.put("a", b"secret")
    extra = {"keyfile_dict": json.dumps(service_account), "flowrunner": {"endpoint_url": fake_gcs.url}}
    value = {"conn_type": "google_cloud_platform", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps(value))
    url = presign(tmp_path, f"gs://bucket@{bucket.name}{bucket.root}/a")["url"]
    assert "X-Goog-Signature=" in url
    assert requests.get(url, timeout=10).content == b"secret"  # the emulator knows the form and not the key


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"path": []}, "path"),
        ({"path": "s3://lake@raw/*.csv"}, "path"),
        ({"path": "s3://lake@raw/in/"}, "path"),
        ({"path": "/data/a"}, "path"),
        ({"path": "s3://nobody@raw/a"}, "conn_id"),
        ({"method": "DELETE"}, "method"),
        ({"expires": "8d"}, "expires"),
        ({"expires": "soon"}, "expires"),
        ({"expires": 0}, "expires"),
        ({"path": "gs://public@raw/a"}, "keyfile_dict"),
        ({"path": "wasb://shared@raw/a"}, "sas_token"),
        ({"path": "s3://open@raw/a"}, "signature_version"),
    ],
)
def test_bad_input_is_told(tmp_path, monkeypatch, options, field):
    connections = {
        "lake": {"conn_type": "aws", "login": "a", "password": "b", "extra": {"region_name": "eu-central-1"}},
        "open": {"conn_type": "aws", "extra": {"config_kwargs": {"signature_version": "unsigned"}}},
        "shared": {"conn_type": "wasb", "login": "account", "extra": {"sas_token": "sv=1&sig=x"}},
    }
    for name, value in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))
    monkeypatch.setenv("AIRFLOW_CONN_PUBLIC", gcs_connection("https://storage.googleapis.com"))
    with pytest.raises(ConfigError) as caught:
        presign(tmp_path, **{"path": "s3://lake@raw/a", **options})
    assert caught.value.field == field
    assert caught.value.remedy


def test_no_request_is_needed_where_the_region_is_known(tmp_path, monkeypatch):
    value = {"conn_type": "aws", "login": "a", "password": "b", "extra": {"region_name": "eu-central-1"}}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(value))
    url = presign(tmp_path, "s3://lake@raw/a")["url"]
    assert url.startswith("https://raw.s3.")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
