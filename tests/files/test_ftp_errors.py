"""FTP on bad days: what is not allowed is not absent, what breaks is told apart, and nothing secret leaves."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PathEscape,
    PermanentError,
    Rejected,
    SecurityError,
    TimedOut,
    TransientError,
    Unavailable,
)
from flowrunner_provider.files.stores.ftp import FtpStore, FtpTarget
from flowrunner_provider.files.stores.ftp_listing import fact_entry, list_entry
from tests.contracts.store_contract import collect, write
from tests.files.far import Disk
from tests.files.ftp_targets import proftpd_target, vsftpd_target
from tests.support.ftp_script import ScriptedFtp
from tests.support.proftpd import proftpd as run_proftpd
from tests.support.tls import Tls

# ruff: noqa: PT012 - what is raised where inside of an open store is the point
pytestmark = pytest.mark.backend


def within(target, test):
    """Run a coroutine function with an open store."""

    async def body():
        async with asyncio.timeout(30), FtpStore(target) as store:
            return await test(store)

    return asyncio.run(body())


def scripted(server: ScriptedFtp, **more) -> FtpTarget:
    return FtpTarget(**{"host": server.host, "port": server.port, "login": "u", "password": "pw-canary-4711", **more})


# -- allowed, there, absent --------------------------------------------------------------------------------------


def test_no_permission_is_not_absence(tls):
    with run_proftpd(tls, more="<Limit DIRS READ WRITE>\nDenyAll\n</Limit>") as server:
        far = Disk(server.root())
        far.put("f", b"x")

        async def test(store):
            for act in (
                store.stat(f"{far.root}/f"),
                anext(store.list(far.root)),
                collect(store.read(f"{far.root}/f")),
                store.delete(f"{far.root}/f"),
                store.mkdir(f"{far.root}/d"),
                store.rename(f"{far.root}/f", f"{far.root}/g", replace=True),
                write(store, f"{far.root}/g", b"x"),
            ):
                with pytest.raises(AccessDenied):
                    await act

        within(proftpd_target(server, tls), test)
        assert far.names() == ["f"]


def test_a_server_that_denies_mlst_only_does_not_make_files_vanish(tls):
    with run_proftpd(tls, more="<Limit MLST>\nDenyAll\n</Limit>") as server:
        far = Disk(server.root())
        far.put("f", b"x")

        async def test(store):
            with pytest.raises(AccessDenied):
                await store.stat(f"{far.root}/f")
            assert [entry.name async for entry in store.list(far.root)] == ["f"]

        within(proftpd_target(server, tls), test)


def test_permissions_of_the_file_system(vsftpd, tls):
    far = Disk(vsftpd.root())
    far.put("shut/f", b"x")
    far.put("unreadable", b"x")
    (far.path / "shut").chmod(0o700)
    (far.path / "unreadable").chmod(0o600)

    async def test(store):
        for act in (
            store.stat(f"{far.root}/shut"),
            store.stat(f"{far.root}/shut/f"),
            store.stat(f"{far.root}/shut/nothing"),
            store.delete(f"{far.root}/shut/f"),
            store.rmdir(f"{far.root}/shut"),
            anext(store.list(f"{far.root}/shut")),
            collect(store.read(f"{far.root}/unreadable")),
        ):
            with pytest.raises(AccessDenied):
                await act
        for name in ("nothing", ".nothing", "no*thing"):
            with pytest.raises(NotFound):
                await store.stat(f"{far.root}/{name}")

    within(vsftpd_target(vsftpd, tls), test)
    assert far.names() == ["shut/f", "unreadable"]


def test_folders_are_removed_only_when_they_are_empty(proftpd, tls):
    far = Disk(proftpd.root())
    far.put("full/f", b"x")
    (far.path / "empty").mkdir()

    async def test(store):
        assert not await store.rmdir(f"{far.root}/full")
        assert await store.rmdir(f"{far.root}/empty")
        assert await store.rmdir(f"{far.root}/empty")

    within(proftpd_target(proftpd, tls), test)
    assert os.listdir(far.path) == ["full"]


def test_links_are_shown_and_not_followed(proftpd, vsftpd, tls):
    for server, target in ((proftpd, proftpd_target(proftpd, tls)), (vsftpd, vsftpd_target(vsftpd, tls))):
        far = Disk(server.root())
        far.put("d/f", b"x" * 10)
        os.symlink(far.path, far.path / "loop")
        os.symlink(far.path / "d/f", far.path / "l")

        async def test(store, far=far):
            found = {e.path.removeprefix(f"{far.root}/"): e.is_link async for e in store.list(far.root, True)}
            assert found == {"d": False, "d/f": False, "loop": True, "l": True}
            return (await store.stat(f"{far.root}/l")).is_link

        assert within(target, test) is (server is proftpd)


def test_paths_relative_to_the_home_folder(proftpd, tls):
    async def test(store):
        assert (await store.stat(".")).is_dir
        await write(store, "relative.txt", b"home")
        assert await collect(store.read("relative.txt")) == b"home"
        await store.delete("relative.txt")

    within(proftpd_target(proftpd, tls), test)


# -- S9: one command is one line; data goes to the server itself; nothing in clear -----------------------------------


@pytest.mark.parametrize("bad", ["\r\nDELE /victim", "\nDELE /victim", "\rX", "\0"])
def test_a_path_is_never_a_second_command(bad):
    with ScriptedFtp() as server:

        async def test(store):
            before = len(server.lines)
            for act in (
                store.stat(f"/a{bad}"),
                store.delete(f"/a{bad}"),
                store.mkdir(f"/a{bad}"),
                store.rename("/x", f"/a{bad}"),
                anext(store.list(f"/a{bad}")),
                collect(store.read(f"/a{bad}")),
                store.begin(f"/a{bad}", "t"),
            ):
                with pytest.raises(PathEscape):
                    await act
            assert server.lines[before:] == []

        within(scripted(server), test)
        assert not [line for line in server.lines if "victim" in line]


def test_the_host_that_pasv_names_is_ignored():
    listing = b"type=file;size=3;modify=20200229120001; f\r\n"
    with ScriptedFtp(data={"MLSD": listing}, pasv_host="10,9,8,7") as server:

        async def test(store):
            return [entry.name async for entry in store.list("/")]

        assert within(scripted(server), test) == ["f"]  # and the guard of the tests saw no call to 10.9.8.7


def test_a_server_without_tls_gets_no_login():
    with ScriptedFtp({"AUTH": "502 not here"}) as server:
        with pytest.raises(SecurityError, match="no login was sent"):
            within(scripted(server, security="explicit"), lambda store: store.stat("/"))
        assert server.lines == ["AUTH TLS"]


@pytest.mark.parametrize("security", ["explicit", "implicit"])
def test_another_certificate_gets_no_login(tls, tmp_path, security):
    wrong = tls.ca.issue_cert("wrong.test").private_key_and_cert_chain_pem.bytes()
    stranger = Tls.create(tmp_path)
    with run_proftpd(tls, cert=wrong) as server:
        targets = [proftpd_target(server, tls, security)]
        targets.append(proftpd_target(server, tls, security, ca_file=str(stranger.ca_file)))
        targets.append(proftpd_target(server, tls, security, ca_file=""))
        for target in targets:
            with pytest.raises(SecurityError, match="ca_file"):
                within(target, lambda store: store.stat("."))
        assert "USER" not in server.commands
        assert "PASS" not in server.commands


@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
def test_the_data_channel_is_encrypted_in_the_session_of_the_control_channel(tls, protocol):
    """ProFTPD refuses any other data connection here, both in clear and with a session of its own."""
    with run_proftpd(tls, required="on", protocol=protocol) as server:
        far = Disk(server.root())

        async def test(store):
            for number in range(3):
                await write(store, f"{far.root}/{number}", b"x" * 300_000)
                assert await collect(store.read(f"{far.root}/{number}")) == b"x" * 300_000
            assert len([entry async for entry in store.list(far.root)]) == 3

        within(proftpd_target(server, tls, "explicit"), test)
        assert server.commands.index("PROT P") < server.commands.index("STOR")
        with pytest.raises(FlowRunnerError, match=r"TLS|SSL"):
            within(proftpd_target(server, tls), lambda store: store.stat("."))


# -- what breaks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["226 done", "426 cut", "421 shutting down"])
def test_data_that_is_cut_off_is_never_a_short_file(final):
    facts = "250-\r\n type=file;size=1000;modify=20200229120001; /f\r\n250 End"
    with ScriptedFtp({"RETR": final, "SIZE": "213 1000", "MLST": facts}, {"RETR": b"x" * 600}) as server:

        async def test(store):
            for length in (None, 1000):
                with pytest.raises(ConnectionLost):
                    await collect(store.read("/f", 0, length))

        within(scripted(server), test)


@pytest.mark.parametrize(
    ("final", "kind"), [("421 shutting down", ConnectionLost), ("451 disk", Unavailable), ("550 no", AccessDenied)]
)
def test_a_listing_that_fails_in_the_middle_raises(final, kind):
    listing = b"type=file;size=3;modify=20200229120001; f\r\n"
    facts = "250-\r\n type=dir; /\r\n250 End"
    with ScriptedFtp({"MLSD": final, "MLST": facts}, {"MLSD": listing}) as server:

        async def test(store):
            with pytest.raises(kind):
                _ = [entry async for entry in store.list("/")]

        within(scripted(server), test)


def test_a_temporary_refusal_is_transient():
    """ftplib's error_temp is no error_perm: the official sensor's flag for transient errors never applied."""
    with ScriptedFtp({"MLST": "450 busy", "CWD": "450 busy", "DELE": "450 busy", "SIZE": "450 busy"}) as server:

        async def test(store):
            for act in (store.stat("/f"), store.delete("/f"), anext(store.list("/"))):
                with pytest.raises(TransientError):
                    await act

        within(scripted(server), test)


@pytest.mark.parametrize("security", ["plain", "explicit", "implicit"])
def test_a_silent_server(security):
    with ScriptedFtp(greets=False) as server, pytest.raises(TimedOut):
        within(scripted(server, security=security, connect_timeout=0.3), lambda store: store.stat("/"))


@pytest.mark.parametrize("answer", ["", "..."])
def test_a_server_that_falls_silent_or_never_comes_to_an_end(answer):
    with ScriptedFtp({"MLST": answer}) as server, pytest.raises(TimedOut):
        within(scripted(server, timeout=0.3), lambda store: store.stat("/"))


def test_what_is_cancelled_ends_at_once():
    with ScriptedFtp({"MLST": ""}) as server:

        async def test(store):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.stat("/")

        within(scripted(server), test)


@pytest.mark.parametrize("at", [30_000, 500_000, 2_000_000])
def test_a_connection_lost_while_writing_leaves_no_file(proftpd, tls, at):
    far = Disk(proftpd.root())

    async def test(store):
        upload = await store.begin(f"{far.root}/f", "t")
        await upload.write(b"x" * at)
        for lease in store.pool._leased:
            lease.control.cut_off()
        with pytest.raises(ConnectionLost):
            for _ in range(50):
                await upload.write(b"x" * 300_000)
        await upload.close()
        await store.forget(f"{far.root}/f", "t")

    within(proftpd_target(proftpd, tls, "explicit"), test)
    assert far.names() == []


def test_idle_sessions_that_the_server_ended_are_replaced(tls):
    with run_proftpd(tls, more="TimeoutIdle 1") as server:

        async def test(store):
            (idle,) = store.pool._idle
            for _ in range(100):
                if idle.stale():
                    break
                await asyncio.sleep(0.05)
            assert (await store.stat(".")).is_dir
            assert idle not in store.pool._idle

        within(proftpd_target(server, tls), test)


# -- servers with a mind of their own --------------------------------------------------------------------------------


def test_a_server_that_takes_only_whole_files(tls):
    with run_proftpd(tls, more="AllowStoreRestart off") as server:
        far, data = Disk(server.root()), os.urandom(3_000_000)

        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t", size=len(data))
            for start in range(0, len(data), 500_000):
                await upload.write(data[start : start + 500_000])
                await upload.sync()
            assert not store.capabilities.resumable_upload
            assert await upload.size() == len(data)
            await upload.commit()
            await upload.close()

        within(proftpd_target(server, tls), test)
        assert far.get("f") == data


def test_a_server_that_does_not_rename_onto_a_file(tls):
    with run_proftpd(tls, more="AllowOverwrite off") as server:
        far = Disk(server.root())
        far.put("f", b"old")

        async def refused(store):
            with pytest.raises((Rejected, AccessDenied), match=r"atomic_replace|permission"):
                await write(store, f"{far.root}/f", b"new")
            await store.forget(f"{far.root}/f", "t")

        within(proftpd_target(server, tls), refused)
        assert far.get("f") == b"old"

        async def replaced(store):
            assert not store.capabilities.atomic_replace
            await write(store, f"{far.root}/f", b"new")

        within(proftpd_target(server, tls, atomic_replace=False), replaced)
        assert far.get("f") == b"new"
        assert far.names() == ["f"]


def test_a_server_that_allows_two_sessions(tls):
    with run_proftpd(tls, more="MaxClientsPerHost 2") as server:
        far = Disk(server.root())
        data = {f"f{number}": os.urandom(50_000) for number in range(8)}
        for name, body in data.items():
            far.put(name, body)

        async def test(store):
            async def copy(name: str) -> None:
                await write(store, f"{far.root}/copy-{name}", await collect(store.read(f"{far.root}/{name}")))

            await asyncio.gather(*(copy(name) for name in data))

        within(proftpd_target(server, tls), test)
        assert {name: far.get(f"copy-{name}") for name in data} == data


@pytest.mark.parametrize("security", ["plain", "explicit"])
def test_active_mode(proftpd, tls, security):
    far = Disk(proftpd.root())

    async def test(store):
        await write(store, f"{far.root}/f", b"active" * 1000)
        assert await collect(store.read(f"{far.root}/f")) == b"active" * 1000

    within(proftpd_target(proftpd, tls, security, passive=False), test)
    assert "PORT" in proftpd.commands


def test_another_encoding(proftpd, tls):
    far = Disk(proftpd.root())

    async def test(store):
        with pytest.raises(PermanentError, match="encoding"):
            await write(store, f"{far.root}/\u65e5", b"x")

    within(proftpd_target(proftpd, tls, encoding="cp1251"), test)


def test_a_name_that_is_not_utf8_survives_the_listing(proftpd, tls):
    far = Disk(proftpd.root())
    with open(os.path.join(os.fsencode(far.root), b"caf\xe9"), "wb") as file:
        file.write(b"latin")

    async def test(store):
        (entry,) = [entry async for entry in store.list(far.root)]
        assert entry.name == "caf\udce9"
        assert await collect(store.read(entry.path)) == b"latin"

    within(proftpd_target(proftpd, tls), test)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-rw-r--r--    1 0        0              10 Nov 23 02:12 f", ("f", 10, False, False)),
        ("-rw-r--r--  1 some one with blanks  7 Feb 29  2020  two  blanks ", (" two  blanks ", 7, False, False)),
        ("drwxr-xr-x    2 0        0            4096 Nov 23 02:12 d", ("d", None, True, False)),
        ("lrwxrwxrwx    1 0        0              50 Nov 23 02:12 l -> /x y", ("l", 50, False, True)),
        ("11-23-26  02:12PM       <DIR>          in box", ("in box", None, True, False)),
        ("11-23-2026  02:12PM              1234 a.csv", ("a.csv", 1234, False, False)),
    ],
)
def test_lines_of_list(line, expected):
    entry = list_entry(line, "/in/")
    assert (entry.name, entry.size, entry.is_dir, entry.is_link) == expected
    assert entry.path == f"/in/{entry.name}"


@pytest.mark.parametrize("line", ["", "total 12", "drwxr-xr-x  3 0  0  4096 Nov 23 02:12 ."])
def test_lines_of_list_that_are_no_entries(line):
    assert list_entry(line, "/") is None


@pytest.mark.parametrize("line", ["what?", "-rw-r--r-- 1 0 0 x Nov 23 02:12 f", "ls: cannot open directory"])
def test_a_listing_that_cannot_be_understood_is_no_empty_one(line):
    with pytest.raises(PermanentError):
        list_entry(line, "/")
    with pytest.raises(PermanentError):
        fact_entry(line, "/")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", ".."])
def test_a_listed_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(PathEscape):
        fact_entry(f"type=file;size=1; {name}", "/in/")
    if name != "..":
        with pytest.raises(PathEscape):
            list_entry(f"-rw-r--r-- 1 0 0 10 Nov 23 02:12 {name}", "/in/")


def test_a_process_with_more_than_a_thousand_open_files(proftpd, tls):
    """Sockets with large descriptors, as a triggerer with many watchers has them."""
    far = Disk(proftpd.root())
    far.put("f", b"x")
    with ExitStack() as opened:
        for _ in range(1100):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))

        async def test(store):
            for _ in range(2):  # the second one checks whether the idle session is still usable
                assert (await store.stat(f"{far.root}/f")).size == 1

        within(proftpd_target(proftpd, tls), test)


@pytest.mark.parametrize("reply", ["213", "213 many", "213 -1"])
def test_a_size_that_is_no_number_is_unknown(reply):
    answers = {"FEAT": "500 no", "CWD": "550 no", "SIZE": reply, "MDTM": "500 no", "STAT": "500 no"}
    with ScriptedFtp(answers) as server:

        async def test(store):
            with pytest.raises(AccessDenied):
                await store.stat("/f")

        within(scripted(server), test)
