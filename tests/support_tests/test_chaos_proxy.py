"""The proxy's toxics do what they say, seen from a real TCP client of a real TCP server."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.chaos_proxy import ChaosProxy, Toxics

Factory = Callable[[str, int], ChaosProxy]


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are the point."""


@pytest.fixture
def proxy(chaos: Factory) -> Iterator[ChaosProxy]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield chaos("127.0.0.1", server.server_address[1])
        server.shutdown()


def connect(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), 5)


def exchange(proxy: ChaosProxy, data: bytes) -> tuple[bytes, bool]:
    """Everything that comes back for ``data``, and whether the end was a reset (seen by either thread)."""
    got, resets = bytearray(), []

    def note_reset(work: Callable[[], None]) -> None:
        try:
            work()
        except ConnectionError as error:
            resets.append(isinstance(error, ConnectionResetError))

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    def receive() -> None:
        while chunk := client.recv(65536):
            got.extend(chunk)

    try:
        client = connect(proxy)
    except ConnectionResetError:  # the reset was faster than the end of connect()
        return b"", True
    with client:
        sender = threading.Thread(target=note_reset, args=(send,), daemon=True)
        sender.start()
        note_reset(receive)
        sender.join(5)
    return bytes(got), any(resets)


def echoed(proxy: ChaosProxy, data: bytes) -> bytes:
    """Everything that comes back for ``data``."""
    return exchange(proxy, data)[0]


def test_a_healthy_proxy_is_transparent_and_counts(proxy: ChaosProxy) -> None:
    data = bytes(range(256)) * 4000
    assert echoed(proxy, data) == data
    assert (proxy.connections, proxy.bytes) == (1, {"up": len(data), "down": len(data)})


@pytest.mark.parametrize("cut", [0, 1, 16384, 100_001])
def test_cut_down_passes_exactly_so_many_bytes_then_a_regular_end(proxy: ChaosProxy, cut: int) -> None:
    proxy.toxics = Toxics(cut_down=cut)
    data = b"x" * 300_000
    assert exchange(proxy, data) == (data[:cut], False)


@pytest.mark.parametrize("cut", [0, 1, 50_000])
def test_cut_with_rst_is_a_reset_after_exactly_so_many_bytes(proxy: ChaosProxy, cut: int) -> None:
    proxy.toxics = Toxics(cut_down=cut, rst=True)
    got, reset = exchange(proxy, b"x" * 200_000)
    assert (len(got), reset) == (cut, True)


def test_cut_up_counts_what_the_client_sends(proxy: ChaosProxy) -> None:
    proxy.toxics = Toxics(cut_up=1000)
    echoed(proxy, b"x" * 5000)
    assert proxy.bytes["up"] == 1000


def test_only_the_first_connections_suffer(proxy: ChaosProxy) -> None:
    echoed(proxy, b"before")
    proxy.toxics = Toxics(cut_down=2, connections=1)
    assert [echoed(proxy, b"hello"), echoed(proxy, b"hello")] == [b"he", b"hello"]


def test_refuse_refuses_and_reset_accepts_on_the_same_port(proxy: ChaosProxy) -> None:
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.reset()
    assert (echoed(proxy, b"hello"), proxy.port) == (b"hello", port)


@pytest.mark.parametrize("toxics", [Toxics(blackhole_up=True), Toxics(blackhole_down=True)])
def test_a_blackhole_is_silent_and_stays_open(proxy: ChaosProxy, toxics: Toxics) -> None:
    proxy.toxics = toxics
    with connect(proxy) as client:
        client.sendall(b"hello")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_latency_delays_each_direction(proxy: ChaosProxy) -> None:
    proxy.toxics = Toxics(latency=0.1)
    began = time.monotonic()
    assert echoed(proxy, b"hello") == b"hello"
    assert time.monotonic() - began >= 0.2


def test_bandwidth_limits(proxy: ChaosProxy) -> None:
    proxy.toxics = Toxics(bandwidth=100_000)
    began = time.monotonic()
    assert len(echoed(proxy, b"x" * 30_000)) == 30_000
    assert time.monotonic() - began >= 0.29


def test_the_slicer_sends_small_segments(proxy: ChaosProxy) -> None:
    proxy.toxics = Toxics(slicer=3, latency=0.01)
    assert echoed(proxy, b"0123456789" * 20) == b"0123456789" * 20


def test_open_connections_can_be_dropped(proxy: ChaosProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        proxy.drop_all(rst=True)
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_a_server_that_is_not_there_is_a_reset(chaos: Factory) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = chaos("127.0.0.1", nobody.getsockname()[1])
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)
