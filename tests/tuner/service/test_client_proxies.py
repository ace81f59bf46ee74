"""Which requests of the client go through a proxy: none to this machine, whatever the variables say."""

import socket
import threading

import pytest

from tuner import Client
from tuner.errors import UnusableEnvironmentError


@pytest.fixture(name="knocks")
def _knocks(monkeypatch):
    """A proxy that counts who comes and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    found: list[bytes] = []

    def answer():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                found.append(connection.recv(1000))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield found
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(timeout=5)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_is_asked_directly(host, knocks, tmp_path):
    client = Client(f"http://{host}:1", attempts=1, cache_dir=tmp_path)
    with pytest.raises(UnusableEnvironmentError) as caught:
        client.best_config("gemm")
    assert knocks == []
    assert "proxy" not in str(caught.value)


def test_another_host_is_asked_through_the_proxy_and_a_failure_names_it(knocks, tmp_path):
    client = Client("http://tuner.example:8000", attempts=1, cache_dir=tmp_path)
    with pytest.raises(UnusableEnvironmentError, match=r"cannot be reached: .*through proxy http://127\.0\.0\.1:\d+"):
        client.best_config("gemm")
    assert knocks


def test_a_proxy_that_does_not_count_for_a_host_is_not_named(knocks, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "example")
    with pytest.raises(UnusableEnvironmentError) as caught:
        Client("http://tuner.example:1", attempts=1, cache_dir=tmp_path).best_config("gemm")
    assert knocks == []
    assert "proxy" not in str(caught.value)
