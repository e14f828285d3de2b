"""A TCP proxy that cuts connections, to see what interruptions do to real calls."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    """Forwards to `target`.

    Of the first connections, each is cut when its budget of bytes has come back through it; later
    ones are left alone.
    """

    def __init__(self, target: str, budgets: list[int]) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._budgets = budgets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.connections = 0
        self._threads[0].start()

    @property
    def address(self) -> str:
        """The address on which the proxy listens."""
        return "{}:{}".format(*self._listener.getsockname())

    def close(self) -> None:
        """Cut everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._open:
            _cut(end)
        for thread in self._threads:
            thread.join()
        for end in (*self._open, self._listener):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            budget = (
                self._budgets[self.connections] if self.connections < len(self._budgets) else None
            )
            self.connections += 1
            self._open += [client, server]
            for source, sink, limit in ((client, server, None), (server, client, budget)):
                thread = threading.Thread(target=_copy, args=(source, sink, limit))
                self._threads.append(thread)
                thread.start()


def _copy(source: socket.socket, sink: socket.socket, budget: int | None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(1024):
            passed += len(data)
            if budget is not None and passed > budget:
                break
            sink.sendall(data)
    _cut(source)
    _cut(sink)


def _cut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(target: str, budgets: list[int]) -> Iterator[tuple[str, Proxy]]:
    """A proxy in front of `target`; yields its address and itself."""
    proxy = Proxy(target, budgets)
    try:
        yield proxy.address, proxy
    finally:
        proxy.close()
