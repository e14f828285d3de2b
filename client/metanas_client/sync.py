"""Blocking client: runs the asynchronous client on a separate thread."""

import asyncio
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from metanas_client.aio import PAGE_SIZE, AsyncAdaptation, AsyncClient
from metanas_client.channel import DEFAULT_ADDRESS, DEFAULT_KEEPALIVE
from metanas_client.errors import ForkedProcess
from metanas_client.model import Model
from metanas_client.resources import (
    AdaptationInfo,
    Checkpoint,
    ModelInfo,
    Option,
    Progress,
    Variant,
)
from metanas_client.support import Support

SETTLE_SECONDS = 1.0

T = TypeVar("T")


class Client:
    """Connection to a MetaNAS server. Use it in `with`, or call `close`. Threads can share it.

    The arguments, methods and errors are those of `AsyncClient`, without `await`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        token: str | None = None,
        root_certificate: Path | None = None,
        certificate: Path | None = None,
        private_key: Path | None = None,
        tls: bool = False,
        patience: float = 30.0,
        keepalive: float = DEFAULT_KEEPALIVE,
    ) -> None:
        self._client = AsyncClient(
            address,
            token=token,
            root_certificate=root_certificate,
            certificate=certificate,
            private_key=private_key,
            tls=tls,
            patience=patience,
            keepalive=keepalive,
        )
        self._loop = LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection for good. Closing twice is no error."""
        if self._loop.running:
            self._loop.run(self._client.close())
            self._loop.stop()

    def adapt(  # noqa: PLR0913 (those of `AsyncClient.adapt`)
        self,
        support: Support,
        *,
        checkpoint: str = "",
        seed: int = 0,
        options: Mapping[str, Option] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: int = 0,
        reuse: bool = False,
    ) -> "Adaptation":
        """Send a support set; see `AsyncClient.adapt`."""
        handle = self._loop.run(
            self._client.adapt(
                support,
                checkpoint=checkpoint,
                seed=seed,
                options=options,
                request_id=request_id,
                timeout=timeout,
                deadline=deadline,
                priority=priority,
                reuse=reuse,
            )
        )
        return Adaptation(self._loop, handle)

    def pareto(
        self,
        support: Support,
        count: int,
        *,
        checkpoint: str = "",
        seed: int = 0,
        options: Mapping[str, Option] | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> list[Model]:
        """Adapt several models of falling cost; see `AsyncClient.pareto`."""
        return self._loop.run(
            self._client.pareto(
                support,
                count,
                checkpoint=checkpoint,
                seed=seed,
                options=options,
                timeout=timeout,
                deadline=deadline,
            )
        )

    def adaptation(self, name: str) -> "Adaptation":
        """Return a handle on an adaptation that this or another process started earlier."""
        return Adaptation(self._loop, self._loop.run(self._client.adaptation(name)))

    def adaptations(self, *, page_size: int = PAGE_SIZE) -> Iterator[AdaptationInfo]:
        """Iterate over the server's adaptations, the latest first. Pages are fetched on demand."""
        return self._loop.iterate(lambda: self._client.adaptations(page_size=page_size))

    def checkpoints(self) -> list[Checkpoint]:
        """Return the server's checkpoints."""
        return self._loop.run(self._client.checkpoints())

    def checkpoint(self, name: str) -> Checkpoint:
        """Return one checkpoint. `NotFound` lists the existing names."""
        return self._loop.run(self._client.checkpoint(name))

    def models(self, *, page_size: int = PAGE_SIZE, shared: bool = False) -> Iterator[ModelInfo]:
        """Iterate over your models, or those that others share; see `AsyncClient.models`."""
        return self._loop.iterate(lambda: self._client.models(page_size=page_size, shared=shared))

    def model(self, name: str, *, variant: Variant = Variant()) -> Model:  # noqa: B008
        """Download a model; see `AsyncClient.model`."""
        return self._loop.run(self._client.model(name, variant=variant))

    def update_model(
        self,
        name: str,
        *,
        pinned: bool | None = None,
        share_with: Sequence[str] = (),
        unshare: Sequence[str] = (),
    ) -> ModelInfo:
        """Pin a model, or share it with other callers; see `AsyncClient.update_model`."""
        change = self._client.update_model(
            name, pinned=pinned, share_with=share_with, unshare=unshare
        )
        return self._loop.run(change)

    def delete_model(self, name: str) -> None:
        """Delete a model on the server."""
        self._loop.run(self._client.delete_model(name))


class Adaptation:
    """Handle on an adaptation, which continues without the handle and without this process."""

    name: str
    """Name on the server. `client.adaptation(name)` returns a handle at any later time."""
    labels: tuple[str, ...]
    """The classes in the order of the model's outputs."""
    reused: bool
    """True if an earlier request with the same work has made it."""

    def __init__(self, loop: "LoopThread", handle: AsyncAdaptation) -> None:
        self._loop = loop
        self._handle = handle
        self.name = handle.name
        self.labels = handle.labels
        self.reused = handle.reused

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def info(self) -> AdaptationInfo:
        """Return the present state."""
        return self._loop.run(self._handle.info())

    def progress(self, after: int = 0) -> Iterator[Progress]:
        """Iterate over the progress; see `AsyncAdaptation.progress`."""
        return self._loop.iterate(lambda: self._handle.progress(after))

    def result(self, timeout: float | None = None) -> Model:
        """Wait for the end and download the model; see `AsyncAdaptation.result`."""
        return self._loop.run(self._handle.result(timeout))

    def cancel(self) -> AdaptationInfo:
        """Stop the adaptation after its present step. One that has ended stays as it is."""
        return self._loop.run(self._handle.cancel())

    def delete(self) -> None:
        """Delete the record of an adaptation that has ended. Its model stays."""
        self._loop.run(self._handle.delete())


class LoopThread:
    """Event loop on a thread, with calls from other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing: set[asyncio.Task[None]] = set()
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="metanas-client", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it. An interrupted wait cancels it."""
        try:
            self._check()
        except Exception:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise ForkedProcess(self._process)
        if not self.running:
            raise RuntimeError("this client is closed")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a client cannot wait on its own thread; use AsyncClient there")

    def iterate(self, source: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Iterate over an asynchronous iterator, one item at a time."""
        items = self.run(_make(source))
        try:
            while True:
                item = self.run(_next(items))
                if not item:
                    return
                yield item[0]
        finally:
            # Do not wait: the garbage collector may run this on any thread, even the loop's, and
            # at the end of the interpreter, when the loop no longer runs.
            with suppress(RuntimeError):  # the loop is closed, and the iterator with it
                self._loop.call_soon_threadsafe(self._close_later, items)

    def _close_later(self, items: AsyncIterator[Any]) -> None:
        task = self._loop.create_task(_close(items))
        self._closing.add(task)  # the loop has a weak reference only
        task.add_done_callback(self._closing.discard)

    def stop(self) -> None:
        """End the tasks, the loop and the thread."""
        self.run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_tasks() -> None:
    # gRPC has a task for each call, which may not be finished: a loop that stops before prints a
    # warning on the standard error
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, unfinished = await asyncio.wait(others, timeout=SETTLE_SECONDS)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


async def _make(source: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
    return source()


async def _next(items: AsyncIterator[T]) -> tuple[T] | tuple[()]:
    # a future cannot raise StopAsyncIteration in another thread, so an empty tuple is the end
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return ()


async def _close(items: AsyncIterator[T]) -> None:
    if isinstance(items, AsyncGenerator):
        with suppress(RuntimeError):  # an interrupted call still runs in it, and ends it
            await items.aclose()
