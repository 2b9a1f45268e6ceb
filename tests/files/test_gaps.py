"""What an outside reader missed: servers that can do little, files beyond 4 GiB, names that look like templates."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.operators import FileCopyOperator, FileWriteOperator
from tests.contracts.store_contract import collect
from tests.files.far import FAR_SIDES, Disk, Side
from tests.files.test_faults import FILES, Scene, everything_arrived, run_copy
from tests.support.context import execute, make_context
from tests.support.kill import sweep

pytestmark = [pytest.mark.backend, pytest.mark.timeout(300)]


@pytest.fixture
def plain_side(vsftpd, tls) -> Any:
    """A server that lists by LIST alone, tells no time to the second and sets none."""
    options = {"ca_file": str(tls.ca_file)}
    whole = {"conn_type": "ftp", "host": vsftpd.host, "port": vsftpd.port, "extra": {"flowrunner": options}}
    environment = {"AIRFLOW_CONN_DROP": json.dumps(whole)}
    return lambda: Side(Disk(vsftpd.root()), "ftps://drop@", environment, keeps_times=False)


def copy(source: str, dest: str, state: Path, **options: Any) -> Any:
    operator = FileCopyOperator(task_id="copy", source=source, dest=dest, **options)
    return execute(operator, make_context(operator, state=state))


@pytest.mark.parametrize("verify", ["size", "checksum"])
def test_copies_over_a_server_that_can_do_little(plain_side, tmp_path, monkeypatch, verify):
    side = plain_side()
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    there, back = tmp_path / "there", tmp_path / "back"
    for name, data in FILES.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(data)
    up = copy(f"{there}/**/*.csv", side.uri("in/"), tmp_path / "1", verify=verify)
    assert (up["files"], side.all()) == (2, {f"in/{name}": data for name, data in FILES.items()})
    down = copy(side.uri("in/**/*.csv"), f"{back}/", tmp_path / "2", verify=verify, only_new=True)
    assert down["files"] == 2
    assert {str(path.relative_to(back)) for path in back.rglob("*.csv")} == set(FILES)
    assert copy(side.uri("in/**/*.csv"), f"{back}/", tmp_path / "3", verify=verify, only_new=True)["files"] == 0
    (there / "a.csv").write_bytes(b"another")
    copy(f"{there}/a.csv", side.uri("in/"), tmp_path / "4", verify=verify)
    assert side.all()["in/a.csv"] == b"another", "replaced, and nothing beside it"
    assert len(side.all()) == 2


@pytest.mark.faults
@pytest.mark.parametrize("up", [True, False])
def test_killed_over_a_server_that_can_do_little(request, plain_side, tmp_path, up):
    numbers = iter(range(10_000))

    def make() -> Scene:
        directory = tmp_path / str(next(numbers))
        disk = FAR_SIDES["local"](request, directory / "disk")
        scene = Scene(directory, *((disk, plain_side()) if up else (plain_side(), disk)), {"move": True})
        for name, data in FILES.items():
            scene.source.put(name, data)
        for folder in ("", "sub"):
            (scene.source.far.path / folder).chmod(0o777)  # the server works as another user
        scene.dest.put("bystander", b"was here before")
        return scene

    def chosen(point: str) -> bool:
        return "commit" in point or "delete" in point

    assert sweep(make, run_copy, everything_arrived, at=chosen).kills >= 4


@pytest.mark.parametrize("kind", ["local", "sftp", "ftps", "vsftpd"])
def test_ranges_around_two_and_four_gib(request, plain_side, tmp_path, monkeypatch, kind):
    side = plain_side() if kind == "vsftpd" else FAR_SIDES[kind](request, tmp_path / "side")
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    path = side.far.path / "large"
    marks = {place: os.urandom(9) for place in (2**31 - 4, 2**32 - 4)}
    with path.open("wb") as file:
        for place, mark in marks.items():
            file.seek(place)
            file.write(mark)
        file.truncate(2**32 + 100)
    path.chmod(0o644)

    async def look() -> None:
        async with asyncio.timeout(60), open_store(side.uri("large")) as store:
            assert (await store.stat(f"{side.far.root}/large")).size == 2**32 + 100
            for place, mark in marks.items():
                assert await collect(store.read(f"{side.far.root}/large", place, 9)) == mark
            assert await collect(store.read(f"{side.far.root}/large", 2**32 + 1)) == marks[2**32 - 4][5:] + bytes(95)

    asyncio.run(look())


def test_a_name_from_the_far_side_is_no_template(tmp_path):
    names = {"{{ ds }}.csv", "{% raw %}.csv", "{{ ti.task_id }}.csv"}
    for name in names:
        (tmp_path / "from" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    copy(f"{tmp_path}/from/*.csv", f"{tmp_path}/to/", tmp_path / "state")
    assert {path.name for path in (tmp_path / "to").iterdir()} == names


def test_content_from_a_template_file(tmp_path):
    from airflow.sdk import DAG

    (tmp_path / "report.md.j2").write_text("# {{ params.title }}\n\n{{ ds }}\n")
    with DAG("d", schedule=None, template_searchpath=[str(tmp_path)]):
        operator = FileWriteOperator(
            task_id="w", path=f"{tmp_path}/out.md", content='{% include "report.md.j2" %}\n', newline="crlf"
        )
    execute(operator, make_context(operator, state=tmp_path / "state", params={"title": "Köln"}))
    assert (tmp_path / "out.md").read_bytes() == "# Köln\r\n\r\n2026-01-02\r\n".encode()
