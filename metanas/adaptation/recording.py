"""Recorded work: a function of tensors, run once for keeps and repeated on what comes next.

A GPU repeats a recorded step in one launch, where the step itself is a thousand or more. What can
be recorded has the same shapes each time, asks the host nothing, and draws nothing.

Notable:
- Work that is seen for the first time may never come again: it is recorded the second time.
- The third time both are done and compared, on other inputs than those it was made with; only then
  is it believed. What cannot be recorded, or comes out differently, goes on as it always did.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

LOG = logging.getLogger(__name__)
REMEMBERED = 1024
"""Most works of which it is known that they came once, or cannot be recorded."""
ROOM = 0.25
"""Part of a GPU's memory that is left to everything else."""
TOLERANCE = 1e-2
"""Largest difference of a recording's result, as a part of the result, both as lengths."""

Work = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
Repeat = Callable[[], tuple[Tensor, ...]]


class Recorder(Protocol):
    """Records work on tensors that stay where they are."""

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        """What repeats the work on what the inputs hold by then.

        Its results lie where those of its last call did.
        """
        ...


class Plainly:
    """Repeats work by doing it again, with results where a graph would have them."""

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        outputs = work(inputs)

        def repeat() -> tuple[Tensor, ...]:
            for kept, value in zip(outputs, work(inputs), strict=True):
                kept.copy_(value)
            return outputs

        return repeat


class CudaGraphs:
    """Records what work launches on a GPU, as a CUDA graph with memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()
            free, whole = torch.cuda.mem_get_info()
            if free < ROOM * whole:
                raise RuntimeError("the rest of the memory is for the steps themselves")
            # libraries take their memory, and choose their algorithms, before they are recorded
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                work(inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = work(inputs)

        def repeat() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return repeat


class _Recording:
    """Work with inputs of its own, which it is given by copies."""

    def __init__(self, recorder: Recorder, work: Work, inputs: Sequence[Tensor]) -> None:
        self._inputs = [value.detach().clone() for value in inputs]
        self._repeat = recorder.record(work, self._inputs)
        self.believed = False

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value.detach(), non_blocking=True)  # else it would hold every step's graph
        return self._repeat()


class Recordings:
    """Recorded works by what shapes them; the one that was not needed for longest goes first."""

    def __init__(self, recorder: Recorder, most: int) -> None:
        """Keep at most so many."""
        self._recorder, self._most = recorder, most
        self._kept = OrderedDict[Hashable, _Recording]()
        self._met = OrderedDict[Hashable, bool]()
        """Works that are not kept; whether they may be."""
        self._told = False

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the work makes of the inputs; results may change with the next call.

        key: all that shapes the work, what it has bound in beside its inputs too.
        """
        recording = self._kept.get(key)
        if recording is None:
            found = work(inputs)
            self._meet(key, work, inputs)
            return found
        self._kept.move_to_end(key)
        if recording.believed:
            return recording(inputs)
        found = work(inputs)
        if _agree(recording(inputs), found):
            recording.believed = True
        else:
            self._refuse(key, "comes out differently")
        return found

    def clear(self) -> None:
        """Give back the memory of all of them."""
        self._kept.clear()

    def _meet(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> None:
        """Record work that came before; remember it if it is new."""
        if key not in self._met:
            self._met[key] = True
            while len(self._met) > REMEMBERED:
                self._met.popitem(last=False)
        elif self._met[key]:
            self._record(key, work, inputs)

    def _record(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> None:
        try:
            self._kept[key] = _Recording(self._recorder, work, inputs)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                self.clear()
            self._refuse(key, f"cannot be recorded ({error})")
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _refuse(self, key: Hashable, why: str) -> None:
        self._kept.pop(key, None)
        self._met[key] = False
        if not self._told:
            LOG.warning("a step %s; it goes on unrecorded, and so do others like it", why)
        self._told = True


def _agree(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two results are the same within `TOLERANCE`; what is not finite is left out."""
    same = []
    for left, right in zip(one, other, strict=True):
        left, right = (torch.nan_to_num(each, 0.0, 0.0, 0.0).flatten() for each in (left, right))
        apart, length = map(torch.linalg.vector_norm, (left - right, right))
        same.append(apart <= TOLERANCE * length)
    return bool(torch.stack(same).all())
