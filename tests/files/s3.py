"""S3 for these tests: a bucket as boto3 sees it, and a store of ours for it."""

from __future__ import annotations

import json
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.stores.s3 import S3Store, S3Target
from tests.files.far import Side
from tests.support.rgw import ACCESS_KEY, SECRET_KEY, S3Server, client_of

PART = 5 * 1024 * 1024


class Bucket:
    """The far side: one prefix of a bucket, by boto3."""

    def __init__(self, server: S3Server) -> None:
        self.endpoint, self.name, self.prefix = server.endpoint, "tests", uuid.uuid4().hex
        self.root = f"/{self.prefix}"
        if self.name not in [row["Name"] for row in self.client.list_buckets()["Buckets"]]:
            self.client.create_bucket(Bucket=self.name)

    @property
    def client(self) -> Any:
        return client_of(self.endpoint)

    def put(self, relative: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/{relative}", Body=data)

    def get(self, relative: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=f"{self.prefix}/{relative}")["Body"].read()
        return data

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{self.prefix}/")
        keys = [row["Key"] for page in pages for row in page.get("Contents", [])]
        keys += [f"{row['Key']} (unfinished)" for row in self.unfinished()]
        return sorted(key.removeprefix(f"{self.prefix}/") for key in keys)

    def unfinished(self) -> list[dict[str, Any]]:
        """Uploads that were begun and neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.name, Prefix=f"{self.prefix}/")
        return list(answer.get("Uploads", []))

    def parts(self) -> list[tuple[int, int]]:
        """Number and size of the parts of the only unfinished upload."""
        (upload,) = self.unfinished()
        answer = self.client.list_parts(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"])
        return [(row["PartNumber"], row["Size"]) for row in answer.get("Parts", [])]


@cache
def session(**more: str) -> Any:
    """One for all tests: each reads megabytes of service descriptions."""
    import boto3

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    return boto3.Session(**{**keys, **more})


def store_of(endpoint: str, *, bucket: str = "tests", keys: dict[str, str] | None = None, **options: Any) -> S3Store:
    """A store with small parts."""
    given = {"part_size": 5, "region_name": "us-east-1", "timeout": 20.0}
    config = S3Config(endpoint_url=endpoint, **{**given, **options})
    return S3Store(S3Target(bucket=bucket, config=config, session=lambda: session(**(keys or {}))))


def connection_of(server: S3Server, **options: Any) -> str:
    """The Airflow connection for the server."""
    options = {"bucket": "tests", "part_size": 5, "timeout": 20.0, **options}
    extra = {"endpoint_url": server.endpoint, "region_name": "us-east-1", "flowrunner": options}
    return json.dumps({"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra})


def side(request: pytest.FixtureRequest, folder: Path) -> Side:
    """A fresh prefix on Ceph's gateway, one part at a time so that a sweep is the same every time."""
    server = request.getfixturevalue("rgw")
    connection = connection_of(server, parts_at_once=1)
    return Side(Bucket(server), "s3://lake@", {"AIRFLOW_CONN_LAKE": connection}, keeps_times=False)
