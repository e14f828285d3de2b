"""Extensions of a run: values that replace the shipped ones. Nothing is registered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from metanas.errors import UnknownName
from metanas.nn.ops import OPS, Op
from metanas.nn.partial_channels import candidates
from metanas.supernet.relaxations import RELAXATIONS, Relaxation
from metanas.supernet.supernet import Supernet
from metanas.training.checks import check_memory
from metanas.training.config import RunConfig
from metanas.training.dataset import Splits
from metanas.training.meta_learners import META_LEARNERS, MetaLearner
from metanas.training.task_batch import MetaBatch, MetaState, TaskResults
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features

Learn = Callable[[MetaState, range], TaskResults]
"""Run the inner loops of some tasks of an iteration: a `MetaBatch`, or many of them."""
Learner = Callable[[RunConfig, Classes | Features], Learn]
"""Make a `Learn` from the classes to train on."""
SWITCHES = {
    "pc-darts": "PC-DARTS is space.partial = 2, with any of these",
    "meta-sgd": "Meta-SGD is train.learned_rates = true, with any of these",
}
"""Names of published methods that are settings here -> the setting."""


@dataclass(frozen=True)
class Extensions:
    """The values that names in a configuration stand for."""

    ops: Mapping[str, Op] = field(default_factory=lambda: OPS)
    relaxations: Mapping[str, Relaxation] = field(default_factory=lambda: RELAXATIONS)
    meta_learners: Mapping[str, MetaLearner] = field(default_factory=lambda: META_LEARNERS)
    splits: Splits | None = None
    """Classes that replace the data set that `config.data` names, for `metanas.runs.run`."""

    def check(self, config: RunConfig) -> None:
        """Check that all names of a configuration are known, and that a step can fit into memory.

        Raises:
            InvalidInput: a step has more images than the memory of any machine can hold.
            UnknownName: there is no such operation, relaxation or meta-learner.
        """
        learner, relaxation = config.train.meta_learner, config.search.relaxation
        names = {
            "meta-learner": (learner, tuple(self.meta_learners)),
            "relaxation": (relaxation, tuple(self.relaxations)),
        }
        for kind, (name, known) in names.items():
            if name not in known:
                hint = SWITCHES.get(name.lower().replace("_", "-"), "")
                raise UnknownName(kind, name, known, hint)
        check_memory(config, Supernet(config.space, candidates(config.space, self.ops)))

    def batch(self, config: RunConfig, train: Classes | Features, device: str = "cpu") -> MetaBatch:
        """Make the function that runs this configuration's inner loops.

        Raises:
            UnknownName: there is no such operation, relaxation or meta-learner.
        """
        self.check(config)
        return MetaBatch(
            config,
            train,
            meta_learner=self.meta_learners[config.train.meta_learner],
            relaxation=self.relaxations[config.search.relaxation],
            ops=self.ops,
            device=device,
        )
