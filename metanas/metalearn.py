"""Meta-learners: how what a task learned becomes a step of the meta-parameters.

A meta-learner maps the meta-parameters and the parameters that tasks adapted to a meta-gradient
with the same keys; weights and alphas are one dict, alphas under `alpha.`.
"""

from collections.abc import Callable, Sequence

from metanas.optimizer import Params

MetaLearner = Callable[[Params, Sequence[Params]], Params]
"""(meta-parameters, adapted parameters of each task) -> meta-gradient, to be *subtracted*."""


def reptile(meta: Params, adapted: Sequence[Params]) -> Params:
    """REPTILE (Nichol et al., arXiv:1803.02999, algorithm 2): away from where the tasks went.

    Plain tensor arithmetic over every key: a parameter that one task did not touch simply has not
    moved in it.
    """
    return {
        name: value - sum(task[name] for task in adapted) / len(adapted)
        for name, value in meta.items()
    }
