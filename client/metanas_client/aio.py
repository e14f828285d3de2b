"""Asynchronous client: handles for adaptations, plain values for everything else."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from metanas_client.channel import DEFAULT_ADDRESS, DEFAULT_KEEPALIVE, Connection
from metanas_client.checks import (
    caller_names,
    check_sizes,
    choose_checkpoint,
    name_sources,
    qualified,
    utf8,
)
from metanas_client.convert import Job, spec_message
from metanas_client.errors import (
    AdaptationCancelled,
    AdaptationFailed,
    ClientError,
    ForkedProcess,
    InvalidInput,
    NotFound,
    TimedOut,
    error_for,
)
from metanas_client.model import Model, cheaper
from metanas_client.resources import (
    AdaptationInfo,
    Checkpoint,
    Limits,
    ModelInfo,
    Option,
    Progress,
    State,
    Variant,
)
from metanas_client.support import Support, SupportSet, read_contents, read_support
from metanas_client.transport import Calls

PAGE_SIZE = 100
NO_PROGRESS = 2**63 - 1  # above every sequence number: leaves all progress out


class AsyncClient:
    """Connection to a MetaNAS server. Use it in `async with`, or call `close`.

    Args:
        address: host:port of the server.
        token: sent as a bearer token with every call.
        root_certificate: PEM file of the authority of the server's certificate; switches TLS on.
        certificate: PEM file of the client's certificate (mTLS); goes with `private_key`.
        private_key: PEM file.
        tls: use TLS with the authorities that the system trusts.
        patience: seconds to retry an interrupted progress stream or download.
        keepalive: seconds of silence during a call until a ping to the server; after the same time
            without an answer, the call ends with an error.

    Raises:
        InvalidInput: the address or the TLS options are invalid.
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
        self._connection = Connection(
            address=address,
            token=token,
            root_certificate=root_certificate,
            certificate=certificate,
            private_key=private_key,
            tls=tls,
            patience=patience,
            keepalive=keepalive,
        )
        self._opened: Calls | None = None
        self._known: list[Checkpoint] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def adapt(  # noqa: PLR0913 (the fields of a request)
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
    ) -> "AsyncAdaptation":
        """Send a support set and return a handle on the adaptation that it starts.

        Args:
            support: a folder with one sub-folder a class; class -> images (paths, encoded bytes or
                arrays); or (class, image) pairs.
            checkpoint: name of a checkpoint; without it the server chooses by the images, if it
                has the universal search space or exactly one checkpoint.
            seed: seed of all random numbers, 0 to 2**32 - 1.
            options: hyper-parameters that differ from the checkpoint's.
            request_id: a repeated id returns the first adaptation; a random id by default.
            timeout: seconds that the adaptation may take on a worker.
            deadline: seconds until it must have ended, its time in the queue included.
            priority: order among your waiting adaptations, 0 to 9; higher ones start first.
            reuse: allow the answer to be an earlier adaptation of yours with the same images,
                labels, options, seed and checkpoint; `reused` of the handle tells.

        Raises:
            InvalidInput: the support set or an option is wrong; lists every fault.
            ClientError: any other of this package's errors.
        """
        examples = await asyncio.to_thread(read_support, support)
        job = Job(
            support=examples,
            checkpoint=checkpoint,
            options={} if options is None else options,
            seed=seed,
            request_id=request_id or str(uuid.uuid4()),
            timeout=timeout,
            deadline=deadline,
            priority=priority,
            reuse=reuse,
        )
        spec = spec_message(job)
        # check sizes before reading: the folder may be larger than the memory
        await asyncio.to_thread(check_sizes, examples, await self._limits(checkpoint))
        contents = await asyncio.to_thread(read_contents, examples)
        calls = self._calls()
        try:
            info, reused = await calls.create_adaptation(spec, contents)
        except InvalidInput as error:
            raise name_sources(error, examples) from error
        return AsyncAdaptation(calls, info, examples, reused=reused)

    async def pareto(
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
        """Adapt up to `count` models, from the most to the least multiply-adds.

        Each takes at most half of those of the model before. There are fewer models if the server
        has no smaller one. The other arguments, which hold for each model, and errors are those
        of `adapt`.
        """
        support = support if isinstance(support, str | os.PathLike | Mapping) else list(support)
        models, chosen = list[Model](), dict(options or {})
        while len(models) < count:
            try:
                adaptation = await self.adapt(
                    support,
                    checkpoint=checkpoint,
                    seed=seed,
                    options=chosen,
                    timeout=timeout,
                    deadline=deadline,
                )
                models.append(await _result_or_cancel(adaptation))
            except InvalidInput as error:
                if not models or error.reason != "BUDGET_TOO_SMALL":
                    raise
                break
            chosen = cheaper(chosen, models[-1])
        return models

    async def adaptation(self, name: str) -> "AsyncAdaptation":
        """Return a handle on an adaptation that this or another process started earlier."""
        calls = self._calls()
        return AsyncAdaptation(calls, await calls.get_adaptation(qualified("adaptations", name)))

    def adaptations(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[AdaptationInfo]:
        """Iterate over the server's adaptations, the latest first. Pages are fetched on demand."""
        return self._calls().list_adaptations(page_size)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the server's checkpoints."""
        return [checkpoint async for checkpoint in self._calls().list_checkpoints(PAGE_SIZE)]

    async def checkpoint(self, name: str) -> Checkpoint:
        """Return one checkpoint. `NotFound` lists the existing names."""
        return await self._calls().get_checkpoint(utf8("name", name))

    def models(
        self, *, page_size: int = PAGE_SIZE, shared: bool = False
    ) -> AsyncIterator[ModelInfo]:
        """Iterate over your models, the latest first. Pages are fetched on demand.

        shared: iterate over the models that other callers share with you instead.
        """
        return self._calls().list_models(page_size, shared)

    async def model(self, name: str, *, variant: Variant = Variant()) -> Model:  # noqa: B008
        """Download a model, named `models/{model}` or by its last part.

        variant: the form into which the server converts the file first.

        Raises:
            InvalidInput: OPTION_OUT_OF_RANGE, there is no such variant; VARIANT_REFUSED, it would
                answer differently.
        """
        calls = self._calls()
        info = await calls.get_model(qualified("models", name))
        return Model(*await calls.download_model(info, variant))

    async def update_model(
        self,
        name: str,
        *,
        pinned: bool | None = None,
        share_with: Sequence[str] = (),
        unshare: Sequence[str] = (),
    ) -> ModelInfo:
        """Change a model of your own, and return it.

        Args:
            name: `models/{model}` or its last part.
            pinned: True keeps the model when the server deletes unused ones; None changes nothing.
            share_with: callers that may read the model from now on, "*" for all.
            unshare: callers that may not any more; they come before `share_with`.

        Raises:
            InvalidInput: CALLER_NAME, TOO_MANY_NAMES.
            Busy: PINS_FULL, SHARES_FULL: remove some first.
        """
        share_with = caller_names("share_with", share_with)
        unshare = caller_names("unshare", unshare)
        name = qualified("models", name)
        return await self._calls().update_model(name, pinned, share_with, unshare)

    async def delete_model(self, name: str) -> None:
        """Delete a model on the server."""
        await self._calls().delete_model(qualified("models", name))

    async def _limits(self, checkpoint: str) -> Limits:
        """Return the limits for a checkpoint; without a name any will do, all have the same."""
        if not checkpoint:
            self._known = self._known or await self.checkpoints()
            return choose_checkpoint(self._known[:1], "").limits
        try:
            return choose_checkpoint(self._known, checkpoint).limits
        except (NotFound, InvalidInput):
            self._known = await self.checkpoints()
        return choose_checkpoint(self._known, checkpoint).limits

    def _calls(self) -> Calls:
        # open at the first call: a channel belongs to the event loop that runs then
        if self._opened is None:
            self._opened = Calls(self._connection)
        elif self._opened.process != os.getpid():
            raise ForkedProcess(self._opened.process)
        return self._opened


class AsyncAdaptation:
    """Handle on an adaptation, which continues without the handle and without this process."""

    name: str
    """Name on the server. `client.adaptation(name)` returns a handle at any later time."""
    labels: tuple[str, ...]
    """The classes in the order of the model's outputs."""
    reused: bool
    """True if an earlier request with the same work has made it."""

    def __init__(
        self,
        calls: Calls,
        info: AdaptationInfo,
        support: SupportSet | None = None,
        *,
        reused: bool = False,
    ) -> None:
        self._calls = calls
        self._support = support
        self.name = info.name
        self.labels = info.labels
        self.reused = reused

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def info(self) -> AdaptationInfo:
        """Return the present state."""
        return await self._calls.get_adaptation(self.name)

    async def progress(self, after: int = 0) -> AsyncIterator[Progress]:
        """Iterate over the progress, from the start or after a sequence number to the end.

        A broken connection loses and repeats no event. `result` returns the outcome.
        """
        async with aclosing(self._calls.watch_adaptation(self.name, after)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    yield event

    async def result(self, timeout: float | None = None) -> Model:
        """Wait for the end of the adaptation and download the model.

        Args:
            timeout: most seconds to wait; the adaptation continues after them.

        Raises:
            InvalidInput: the support set is unusable; names the example and the file.
            AdaptationFailed: it failed.
            AdaptationCancelled: it was cancelled.
            TimedOut: the timeout passed.
            ClientError: any other of this package's errors.
        """
        try:
            async with asyncio.timeout(timeout):
                info = await self._end()
                model = await self._calls.get_model(_model_name(info))
                return Model(*await self._calls.download_model(model, Variant()))
        except TimeoutError as error:
            message = f"{self.name} has not ended within {timeout} s and continues; wait again"
            raise TimedOut("WAIT_TIMEOUT", message) from error

    async def cancel(self) -> AdaptationInfo:
        """Stop the adaptation after its present step. One that has ended stays as it is."""
        return await self._calls.cancel_adaptation(self.name)

    async def delete(self) -> None:
        """Delete the record of an adaptation that has ended. Its model stays."""
        await self._calls.delete_adaptation(self.name)

    async def _end(self) -> AdaptationInfo:
        async with aclosing(self._calls.watch_adaptation(self.name, NO_PROGRESS)) as events:
            async for event in events:
                if isinstance(event, AdaptationInfo) and event.state.final:
                    if event.state is State.SUCCEEDED:
                        return event
                    raise self._failure(event)
        raise AdaptationFailed("NO_END", f"{self.name} has no end")  # pragma: no cover

    def _failure(self, info: AdaptationInfo) -> ClientError:
        if info.state is State.CANCELLED or info.fault is None:
            message = f"{self.name} was cancelled" if info.fault is None else info.fault.message
            return AdaptationCancelled("CANCELLED", message)
        error = error_for(info.fault, self.name)
        if isinstance(error, InvalidInput) and self._support is not None:
            return name_sources(error, self._support)
        return error


async def _result_or_cancel(adaptation: AsyncAdaptation) -> Model:
    """Wait for the model. A cancelled wait cancels the adaptation."""
    try:
        return await adaptation.result()
    except asyncio.CancelledError:
        await adaptation.cancel()
        raise


def _model_name(info: AdaptationInfo) -> str:
    if info.model is None:
        raise AdaptationFailed("NO_MODEL", f"{info.name} has succeeded without a model")
    return info.model
