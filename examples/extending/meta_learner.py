"""A new meta-learner: FOMAML whose outer gradient is a mean over the inner steps.

MAML's outer loss is that of the parameters after the inner loop. Here it is the mean over the
parameters after each step (multi-step loss, Antoniou et al., arXiv:1810.09502, section 4, first
order, with equal weights).
"""

from dataclasses import dataclass

from examples.extending.common import digits, small_config, train
from metanas.testing import check_meta_learner
from metanas.training.extensions import Extensions
from metanas.training.inner_loop import InnerLoop
from metanas.training.meta_learners import META_LEARNERS, Learned


@dataclass(frozen=True)
class MultiStep:
    """First-order MAML with a multi-step outer loss."""

    def learn(self, loop: InnerLoop) -> Learned:
        theta, rates = loop.begin(), loop.scaled(loop.rates, loop.factors)
        total, factors = 0 * theta, 0 * loop.layout.gather(theta)
        for step in range(loop.steps):
            theta = theta - rates * loop.gradient(theta, step)
            outer = loop.outer_gradient(theta) / loop.steps
            total += outer
            factors -= loop.layout.gather(outer * (loop.start - theta))
        return Learned(gradient=total, factors=factors, moments=loop.moments)


if __name__ == "__main__":
    check_meta_learner(MultiStep())
    outer = ['train.outer = "adam"', "train.meta_lr_weights = 1e-3", "train.meta_lr_alphas = 1e-2"]
    config = small_config('train.meta_learner = "multi-step"', *outer)
    extensions = Extensions(meta_learners={**META_LEARNERS, "multi-step": MultiStep()})
    train(config, extensions, digits())
