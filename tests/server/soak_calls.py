"""Callers of the soak test: they adapt, watch, cancel, download, query and delete.

They also send garbage, break uploads off, stop in the middle of them, and drop connections.
"""

import hashlib
import json
import socket
import struct
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
import numpy as np

from metanas.export.runtime import session
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    DeleteAdaptationRequest,
    ListAdaptationsRequest,
)
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest
from tests.server.calls import CANCELLED, SUCCEEDED, Api, images, parts, refusal_of, spec
from tests.server.queries import Queries, pixels, raw_query, values_of

RETRY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which closing a socket resets the connection."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""Start of a connection of HTTP/2, with empty settings."""
PAUSE = 0.15
"""Mean seconds between two calls of a caller."""


@dataclass
class Job:
    """An acknowledged adaptation. No other one has its labels."""

    key: str
    name: str
    labels: tuple[str, str]
    cancelled: bool = False
    deleted: bool = False


@dataclass
class Caller:
    """A caller with its acknowledged jobs, the calls that it made, and the faults that it saw."""

    random: Random
    jobs: list[Job] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def run(self, addresses: list[str], stop: threading.Event) -> None:
        """Make calls of all kinds until the end."""
        kinds = (create, use, create, use, browse, abandon, drop, rubbish) * 2 + (stall,)
        while not stop.wait(2 * PAUSE * self.random.random()):
            do = self.random.choice(kinds)
            address = self.random.choice(addresses)
            with grpc.insecure_channel(address) as channel:
                try:
                    do(self, Api(channel), address)
                    self.calls[do.__name__] += 1
                except grpc.RpcError as error:
                    self.refusals[reason_of(error)] += 1
                except Exception:
                    self.faults.append(traceback.format_exc())

    def insist(self, do: Callable[[], Any]) -> Any:
        """Repeat a call while the server is full or away; return its answer."""
        while True:
            try:
                return do()
            except grpc.RpcError as error:
                self.refusals[reason_of(error)] += 1
                if error.code() not in RETRY:
                    raise
                time.sleep(0.3)


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason of an error, or the code where the connection broke."""
    with suppress(AssertionError):
        return refusal_of(error).reason
    name: str = error.code().name
    return name


def create(caller: Caller, api: Api, address: str) -> None:
    """Create an adaptation; send it again until it is acknowledged. Cancel or watch some."""
    random = caller.random
    key = str(uuid.UUID(int=random.getrandbits(128)))
    labels = (f"{key}-a", f"{key}-b")
    options = AdaptationOptions(steps=random.choice([0, 3, 30, 100]), tuning_steps=1)
    request = spec(options=options, seed=random.getrandbits(32), request_id=key)
    support = images(labels, seed=random.getrandbits(16))
    job = Job(key, caller.insist(lambda: api.create(request, support)).name, labels)
    caller.jobs.append(job)
    match random.randrange(4):
        case 0:
            job.cancelled = True
            caller.insist(lambda: api.cancel(job.name))
        case 1:
            for _ in api.watch(job.name):
                if random.random() < 0.1:
                    return  # leaves in the middle


def use(caller: Caller, api: Api, address: str) -> None:
    """Download and query the model of a job; delete some."""
    live = [job for job in caller.jobs[-200:] if not job.deleted]
    if not live:
        return
    job = caller.random.choice(live)
    ended = api.get(job.name)
    if ended.state != SUCCEEDED:
        return
    check_model(api, job, ended.model)
    if caller.random.random() < 0.3:
        job.deleted = True
        delete(caller, api, job, ended.model)


def check_model(api: Api, job: Job, model: str) -> None:
    """Compare a model with its digest, its labels, and its answers with those of its file."""
    onnx = b"".join(chunk.data for chunk in api.download(model))
    assert hashlib.sha256(onnx).hexdigest() == api.model(model).sha256, f"{model} is damaged"
    runtime = session(onnx)
    labels = json.loads(runtime.get_modelmeta().custom_metadata_map["metanas.labels"])
    assert tuple(labels) == job.labels, f"{model} belongs to another adaptation"
    asked = pixels(2)
    answer = Queries(api.channel).infer(raw_query(model.removeprefix("models/"), asked))
    (expected,) = runtime.run(["logits"], {"images": asked})
    assert np.allclose(values_of(answer)["logits"], expected, atol=1e-4), f"{model} answers wrongly"


def delete(caller: Caller, api: Api, job: Job, model: str) -> None:
    """Delete a model and its adaptation; a lost answer may hide that it is done."""
    erase, forget = DeleteModelRequest(name=model), DeleteAdaptationRequest(name=job.name)
    for do in (
        lambda: api.models.DeleteModel(erase, timeout=60),
        lambda: api.adaptations.DeleteAdaptation(forget, timeout=60),
    ):
        broken = caller.refusals.total() + 1
        try:
            caller.insist(do)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND or broken == caller.refusals.total():
                caller.faults.append(f"the deletion of {job.name} ends with {error}")


def browse(caller: Caller, api: Api, address: str) -> None:
    """Read a page of the list."""
    api.adaptations.ListAdaptations(ListAdaptationsRequest(page_size=20), timeout=60)


def abandon(caller: Caller, api: Api, address: str) -> None:
    """Cancel an upload in its middle."""
    over = threading.Event()
    upload = api.adaptations.CreateAdaptation.future(unfinished(over), timeout=60)
    time.sleep(caller.random.random() / 2)
    upload.cancel()
    over.set()


def stall(caller: Caller, api: Api, address: str) -> None:
    """Stop in the middle of an upload, until the server ends it."""
    over = threading.Event()
    try:
        api.adaptations.CreateAdaptation(unfinished(over), timeout=60)
    finally:
        over.set()


def unfinished(over: threading.Event) -> Iterator[CreateAdaptationRequest]:
    """The first messages of an upload; the others never come."""
    yield CreateAdaptationRequest(spec=spec())
    yield CreateAdaptationRequest(example=images()[0])
    over.wait(60)


def drop(caller: Caller, api: Api, address: str) -> None:
    """Reset a connection: one with half a message, and one in the middle of an upload."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sent = HELLO + caller.random.randbytes(30)
        connection.sendall(sent[: caller.random.randrange(1, len(sent))])
    over = threading.Event()
    api.adaptations.CreateAdaptation.future(unfinished(over), timeout=60)
    time.sleep(caller.random.random() / 5)
    api.channel.close()
    over.set()


def rubbish(caller: Caller, api: Api, address: str) -> None:
    """Send requests that no server can accept."""
    raw: Any = api.channel
    send = raw.unary_unary("/metanas.v1.AdaptationService/GetAdaptation")
    try:
        if caller.random.random() < 0.5:
            send(caller.random.randbytes(20), timeout=60)
        else:
            request = parts(spec(request_id=caller.random.randbytes(8).hex()), images(("a",)))
            api.adaptations.CreateAdaptation(request, timeout=60)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            caller.faults.append(f"garbage is answered with {error}")
        raise


def ended_well(job: Job, state: int) -> bool:
    """Return True for the end that a job must have."""
    return state == SUCCEEDED or (state == CANCELLED and job.cancelled)
