"""A TCP proxy that cuts connections, to see what interruptions do to real calls."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    """Forwards to `target`. A connection is cut when `budget` bytes have come back through it."""

    def __init__(self, target: str, budget: list[int]) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._budget = budget
        self.connections = 0

    async def serve(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        """One connection; the first budgets apply to the first connections, later ones are free."""
        self.connections += 1
        budget = self._budget.pop(0) if self._budget else None
        server_in, server_out = await asyncio.open_connection(self._host, self._port)
        up = asyncio.create_task(_copy(client_in, server_out, None))
        await _copy(server_in, client_out, budget)
        up.cancel()
        for writer in (server_out, client_out):
            writer.transport.abort()
        await asyncio.gather(up, return_exceptions=True)


async def _copy(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, budget: int | None
) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := await source.read(4096):
            passed += len(data)
            if budget is not None and passed > budget:
                return
            sink.write(data)
            await sink.drain()


@contextmanager
def cutting(target: str, budget: list[int]) -> Iterator[tuple[str, Proxy]]:
    """A proxy in a thread of its own; yields its address and itself."""
    proxy = Proxy(target, list(budget))
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    started = threading.Event()

    async def run() -> None:
        listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        ready.append(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        started.set()

    def thread() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(run())  # noqa: RUF006
        loop.run_forever()

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait()
    try:
        yield ready[0], proxy
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        worker.join()
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
