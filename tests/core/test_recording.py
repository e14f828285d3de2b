"""Recorded steps: what is kept, what is believed, and that nothing comes out differently."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metanas.adaptation.adaptation import Adaptation, Stage, advance
from metanas.adaptation.engine import Engine, engine_for
from metanas.adaptation.job import Job
from metanas.adaptation.recording import Plainly, Recordings, Repeat, Work
from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput
from metanas.images.support_set import SupportSet
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import OPS, Chain, Op, emit_chain
from metanas.spec.options import AdaptConfig
from metanas.spec.precision import Precision
from metanas.testing import make_checkpoint
from tests.core.small import examples, noise

OPTIONS = AdaptConfig(steps=2, tuning_steps=4, weight_lr=1e-3, alpha_lr=0.05)
LOGGER = "metanas.adaptation.recording"


class Counting:
    """Work that is counted: the squares of what it is given."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.done += 1
        return (inputs[0].square(),)


class Forgetful:
    """Repeats what it saw first, whatever the inputs hold by then."""

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        outputs = work(inputs)
        return lambda: outputs


class Failing:
    """A device that cannot record, or not any more."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        self.error, self.left = error, after

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        if not self.left:
            raise self.error
        self.left -= 1
        return Plainly().record(work, inputs)


def feed(recordings: Recordings, key: object, times: int, work: Work | None = None) -> None:
    """Run work so often, each time on other numbers, and see that the results are its own."""
    work = work or Counting()
    for seed in range(times):
        x = noise(3, seed=seed)
        (found,) = recordings.run(key, work, [x])
        assert torch.equal(found, x.square())


def test_what_comes_again_is_recorded_and_then_repeated() -> None:
    class Once(Plainly):
        """Notes which work it was given."""

        def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
            return super().record(recorded_work, inputs)

    work, recorded_work = Counting(), Counting()
    recordings = Recordings(Once(), 4)
    feed(recordings, "a", 1, work)
    assert len(recordings) == 0
    feed(recordings, "a", 6, work)
    assert len(recordings) == 1
    assert work.done == 3  # then it is believed
    assert recorded_work.done == 1 + 5


def test_the_one_that_was_not_needed_for_longest_goes() -> None:
    recordings = Recordings(Plainly(), 2)
    for key in "abab":
        feed(recordings, key, 2)
    feed(recordings, "a", 1)
    feed(recordings, "c", 2)
    work = Counting()
    feed(recordings, "a", 1, work)
    assert len(recordings) == 2
    feed(recordings, "b", 1, work)  # met before, so recorded at once
    feed(recordings, "b", 1, work)
    assert len(recordings) == 2


def test_a_recording_that_comes_out_differently_is_not_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recordings = Recordings(Forgetful(), 4)
    with caplog.at_level(logging.WARNING, LOGGER):
        feed(recordings, "a", 6)
        feed(recordings, "b", 6)
    assert len(recordings) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
    assert "differently" in caplog.text


@pytest.mark.parametrize(
    ("error", "left"),
    [(RuntimeError("cannot capture"), 1), (torch.OutOfMemoryError("full"), 0), (MemoryError(), 0)],
)
def test_what_cannot_be_recorded_goes_on_as_it_did(
    error: Exception, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = Recordings(Failing(error, after=1), 4)
    with caplog.at_level(logging.WARNING, LOGGER):
        feed(recordings, "a", 5)
        feed(recordings, "b", 5)
    assert len(recordings) == left  # where memory lacks, all that was kept is given back
    assert len(caplog.records) == 1
    feed(recordings, "b", 1)


def test_a_recording_takes_the_numbers_alone() -> None:
    class Keeping(Plainly):
        """Keeps what it was given to record on."""

        def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
            kept.extend(inputs)
            return super().record(work, inputs)

    kept, recordings = list[Tensor](), Recordings(Keeping(), 1)
    for seed in range(6):
        x = 2 * noise(3, seed=seed).requires_grad_()
        recordings.run("a", lambda inputs: (inputs[0].detach(),), [x])
    (own,) = kept
    assert own.grad_fn is None  # else it would hold whatever the numbers were computed from
    assert torch.equal(own, x)


def test_a_defect_of_the_work_is_not_hidden() -> None:
    def work(_inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Recordings(Plainly(), 1).run("a", work, [noise(1)])


@pytest.mark.parametrize("graphs", [-1, 3])
def test_graphs_belong_to_gpus(graphs: int) -> None:
    with pytest.raises(InvalidInput):
        engine_for(torch.device("cpu"), Precision.FLOAT32, graphs)
    assert engine_for(torch.device("cpu"), Precision.BF16, 0) == Engine(precision=Precision.BF16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    ops = {name: OPS[name] for name in ("max_pool_3x3", "skip_connect", "dil_conv_3x3")}
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", size=10, ops=ops)


def begin(
    checkpoint: Checkpoint, shots: tuple[int, ...], seed: int, options: AdaptConfig = OPTIONS
) -> Adaptation:
    labels = torch.tensor([way for way, count in enumerate(shots) for _ in range(count)])
    images = noise(len(labels), 1, 10, 10, seed=seed).sigmoid()
    task = SupportSet(images, labels, tuple(map(str, range(len(shots)))))
    return Adaptation(checkpoint, task, options, torch.Generator().manual_seed(seed))


def stacks(checkpoint: Checkpoint, change: dict[str, float]) -> list[list[Adaptation]]:
    """Stacks with the same shapes again and again, one with others, and tasks on their own."""
    options = OPTIONS.replace(change)
    shapes = [((2, 2), (1, 3, 2)), ((2, 2),), ((2, 2), (1, 3, 2)), ((1, 1),)]
    shapes += shapes[:2]
    return [
        [begin(checkpoint, shots, 10 * index + task, options) for task, shots in enumerate(stack)]
        for index, stack in enumerate(shapes)
    ]


def run(adaptations: list[Adaptation], engine: Engine, memory: int) -> None:
    """To the end; the first of several is given up after three steps, as if it were cancelled."""
    turns = 0
    while going := [each for each in adaptations if each.stage is not Stage.DONE]:
        if turns >= 3 and len(adaptations) > 1:
            going = [each for each in going if each is not adaptations[0]]
        if not going:
            return
        for outcome in advance(going, memory=memory, engine=engine):
            assert not isinstance(outcome, Exception)
        turns += 1


@pytest.mark.parametrize(
    ("change", "memory"),
    [
        ({}, 2**30),
        ({}, 0),
        ({"bilevel": True}, 2**30),
        ({"steps": 1, "tuning_steps": 9, "patience": 2, "weight_lr": 0.0}, 2**30),
    ],
    ids=["plain", "recomputed", "bilevel", "stopped early"],
)
def test_tasks_come_out_bit_by_bit_as_if_nothing_were_kept(
    checkpoint: Checkpoint, change: dict[str, float], memory: int
) -> None:
    recordings = Recordings(Plainly(), 6)
    engine = Engine(recordings=recordings)
    for one, other in zip(stacks(checkpoint, change), stacks(checkpoint, change), strict=True):
        run(one, Engine(recordings=Recordings(Plainly(), 0)), memory)
        run(other, engine, memory)
        for plain, recorded in zip(one, other, strict=True):
            assert plain.taken == recorded.taken
            assert plain.genotype == recorded.genotype
            assert plain.saved == recorded.saved
            for name, value in plain.optimizer.snapshot().items():
                assert torch.equal(value, recorded.optimizer.params[name]), name
    assert len(recordings) > 0


class Crowded(nn.Module):
    """Has room for so many rows, and for none beside recordings."""

    def __init__(self, rows: int, recordings: Recordings) -> None:
        super().__init__()
        self.rows, self.recordings = rows, recordings

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows or self.recordings:
            raise torch.OutOfMemoryError
        return x


@pytest.mark.parametrize("rows", [32, 24], ids=["fits", "is halved"])
def test_when_memory_lacks_recordings_go_before_anything_else(tmp_path: Path, rows: int) -> None:
    recordings = Recordings(Plainly(), 6)

    def build(channels: int, stride: int) -> nn.Module:
        layers = OPS["max_pool_3x3"].build(channels, stride).children()
        return Chain([Crowded(rows, recordings), *layers])

    def emit(graph: Graph, module: nn.Module, value: Value) -> Value:
        return emit_chain(graph, Chain(list(module.children())[1:]), value)

    ops = {"max_pool_3x3": Op(build, emit)}
    options = AdaptConfig(steps=1, tuning_steps=0)
    checkpoint = make_checkpoint(tmp_path / "tiny", size=10, ops=ops, options=options)
    feed(recordings, "a", 2)
    jobs = [Job(checkpoint, examples(shots)) for shots in ((2, 2), (1, 2), (2, 1))]
    make_all(jobs, engine=Engine(recordings=recordings))
    assert [job.result().labels for job in jobs] == [("class 000", "class 001")] * 3
    feed(recordings, "a", 2)
    alone = Job(checkpoint, examples((3, 3)))  # of a form that has not come before
    make_all([alone], engine=Engine(recordings=recordings))
    assert alone.result().report.steps == 1
