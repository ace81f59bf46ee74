"""A TCP proxy in front of PostgreSQL that refuses, drops, delays: all that a network can do."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time


class Proxy:
    """Forwards connections to a server's UNIX socket, as well as it is told to.

    Args:
        server: Path of the server's socket.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self.refuses = False
        self.delay_s = 0.0
        """Added to each piece of data, in both directions."""
        self.drop_in: int | None = None
        """Pieces from the client after which its connection is cut; each transaction has about ten."""
        self.drops = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop all connections now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._close(pair)

    def heal(self) -> None:
        """Forward as if nothing had been."""
        self.refuses, self.delay_s, self.drop_in = False, 0.0, None

    def close(self) -> None:
        """End."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                self.drops += 1
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._server)
            except OSError:
                client.close()
                server.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._forward, args=(pair,), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        try:
            with selectors.DefaultSelector() as selector:
                for each in pair:
                    selector.register(each, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        data = source.recv(1 << 16)
                        if not data or (source is client and self._is_cut()):
                            return
                        time.sleep(self.delay_s)
                        (server if source is client else client).sendall(data)
        except (OSError, ValueError, KeyError):
            return  # closed from the other side, or by cut()
        finally:
            self._close(pair)

    def _is_cut(self) -> bool:
        if self.drop_in is None:
            return False
        self.drop_in -= 1
        if self.drop_in > 0:
            return False
        self.drop_in = None
        self.drops += 1
        return True

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
