# %% [markdown]
# # Your own meta-learner
#
# Meta-training is agnostic: it takes any gradient-based meta-learner and any relaxation of the
# search space. Write a meta-learner, check its contract, and train with it. The run here is a toy
# of a few iterations; [Meta-training](../training.md) has the real one.

# %%
import inspect
import sys
from pathlib import Path

import metanas
from metanas.testing import check_meta_learner
from metanas.training.extensions import Extensions
from metanas.training.meta_learners import META_LEARNERS

sys.path.append(str(Path(metanas.__file__).parents[1]))  # for the package `examples`
from examples.extending.common import digits, small_config, train
from examples.extending.meta_learner import MultiStep

# %% [markdown]
# ## The meta-learner
#
# A meta-learner receives an `InnerLoop`: the start of the parameters of one task, their gradients
# at each step, and the outer gradient of the query images. It returns a direction for the
# meta-parameters.
#
# This one averages the outer gradients over all inner steps, like the multi-step loss of Antoniou
# et al. ([arXiv:1810.09502](https://arxiv.org/abs/1810.09502), section 4), in first order.

# %%
print(inspect.getsource(MultiStep))

# %% [markdown]
# ## Check the contract
#
# The check runs the meta-learner on a small problem with a known answer. It raises an error that
# names the broken rule.

# %%
check_meta_learner(MultiStep())

# %% [markdown]
# ## Train
#
# Parts are passed in by name. Nothing is registered.

# %%
outer = ['train.outer = "adam"', "train.meta_lr_weights = 1e-3", "train.meta_lr_alphas = 1e-2"]
config = small_config('train.meta_learner = "multi-step"', *outer)
extensions = Extensions(meta_learners={**META_LEARNERS, "multi-step": MultiStep()})
train(config, extensions, digits())

# %% [markdown]
# Operations, relaxations and data sets have contracts and checks of the same kind:
# `examples/extending/`.
