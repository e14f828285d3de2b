# %% [markdown]
# # A task of handwriting
#
# How many images does a class need? Adapt to 1, 2 and 5 handwritten digits of each class, compare
# the estimates with the truth, and see how the architecture follows from the images.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import metanas
from metanas_client import Model

ROOT = Path(metanas.__file__).parents[1]  # the clone
DIGITS = ROOT / "examples" / "digits"
FOLDER = Path(tempfile.mkdtemp())
SPACE = metanas.load_universal(ROOT / "meta_checkpoints")
SUPPORT = metanas.read_folder(DIGITS / "support")


# %% [markdown]
# ## Accuracy against the number of images


# %%
def of_each_class(shots: int) -> list[metanas.Example]:
    """Return the first images of each class."""
    seen: dict[str, list[metanas.Example]] = {}
    for example in SUPPORT:
        seen.setdefault(example.label, []).append(example)
    return [example for examples in seen.values() for example in examples[:shots]]


measured = {}
for shots in (1, 2, 5):
    adapted = metanas.adapt(SPACE, of_each_class(shots), seed=0)
    file = FOLDER / f"{shots}.onnx"
    file.write_bytes(adapted.onnx)
    estimate = adapted.report.leave_one_out
    expected = f"{estimate.low:.0%} to {estimate.high:.0%}" if estimate else "not known"
    measured[shots] = Model.load(file).test(DIGITS / "query").metrics.accuracy
    print(f"{shots} of each class: expected {expected}, measured {measured[shots].share:.1%}")

# %% [markdown]
# One image of a class cannot be left out, so there is no estimate. Two images give a low one.

# %%
values = list(measured.values())
shares = [each.hits / each.count for each in values]
lows = [share - each.low for share, each in zip(shares, values, strict=True)]
highs = [each.high - share for share, each in zip(shares, values, strict=True)]
plt.errorbar(list(measured), shares, yerr=[lows, highs], marker="o")
plt.xlabel("images of each class")
plt.ylabel("accuracy on 100 other digits")
plt.ylim(0, 1)
# %% [markdown]
# ## The architecture that was chosen
#
# Shares of the branches in the network. A branch without a share is not in the file.

# %%
for branch, share in adapted.report.architecture.items():
    print(f"{branch:12} {share:.2f}")
f"{adapted.report.macs / 1e6:.0f} million multiply-adds, {len(adapted.onnx) / 1e6:.1f} MB"

# %% [markdown]
# ## A checkpoint by name
#
# The checkpoint `omniglot` was meta-trained on characters alone. It takes steps of a task optimizer
# on weights and architecture, and prunes to one small network of cells.

# %%
characters = metanas.load_checkpoint(ROOT / "meta_checkpoints" / "omniglot")
adapted = metanas.adapt(characters, SUPPORT, seed=0)
(FOLDER / "cells.onnx").write_bytes(adapted.onnx)
small = Model.load(FOLDER / "cells.onnx")
accuracy = small.test(DIGITS / "query").metrics.accuracy
print(f"{len(adapted.onnx) / 1e3:.0f} kB, measured {accuracy.share:.1%}")
small
