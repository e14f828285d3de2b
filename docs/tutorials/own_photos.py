# %% [markdown]
# # Your own photographs
#
# Make a model of three surfaces from four photographs of each, see how good it is, and use it.
# Replace the folder by your own: one sub-folder of images for each class, named by its label.
#
# Each tutorial is a program. The page shows what it printed when this documentation was built.

# %%
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display
from PIL import Image

import metanas
from metanas_client import Model

ROOT = Path(metanas.__file__).parents[1]  # the clone
SURFACES = ROOT / "examples" / "surfaces"
FILE = Path(tempfile.mkdtemp()) / "surfaces.onnx"

# %% [markdown]
# ## Look at the images


# %%
def show(files: Sequence[Path], titles: Sequence[str]) -> None:
    """Show images in one row."""
    _, axes = plt.subplots(1, len(files), figsize=(1.4 * len(files), 1.8), squeeze=False)
    for axis, file, title in zip(axes[0], files, titles, strict=True):
        axis.imshow(Image.open(file), cmap="gray")
        axis.set_title(title, fontsize=8)
        axis.axis("off")


files = sorted(SURFACES.glob("support/*/*.jpg"))
show(files, [file.parent.name for file in files])

# %% [markdown]
# ## Adapt
#
# The *support set* is the labelled images. The default search space chooses the network for them.

# %%
support = metanas.read_folder(SURFACES / "support")
space = metanas.load_universal(ROOT / "meta_checkpoints")
adapted = metanas.adapt(space, support, seed=0)
FILE.write_bytes(adapted.onnx)
f"{len(adapted.onnx) / 1e6:.1f} MB for {', '.join(adapted.labels)}"

# %% [markdown]
# ## Is it any good?
#
# The estimate needs no other images: each image of the support set is classified by a head that
# was fitted without it.

# %%
estimate = adapted.report.leave_one_out
assert estimate is not None  # it is, if a class has one image only
f"expected accuracy on new images: {estimate.low:.0%} to {estimate.high:.0%}"

# %% [markdown]
# Images that the model has not seen give a second answer, with its 95 % interval. The table shows
# which classes are confused.

# %%
model = Model.load(FILE)
result = model.test(SURFACES / "query")
display(result)  # type: ignore[no-untyped-call]

# %% [markdown]
# ## Use it
#
# `known` says how much an image looks like the classes at all. The last image is none of them.

# %%
queries = [next(folder.iterdir()) for folder in sorted((SURFACES / "query").iterdir())]
queries.append(ROOT / "examples" / "digits" / "query" / "7" / "0118.png")
answers = model.predict(queries)
show(queries, [f"{a.label} {a.confidence:.0%}\nknown {a.known:.0%}" for a in answers])

# %% [markdown]
# The file needs only ONNX Runtime: [use the model elsewhere](deploy.py).
