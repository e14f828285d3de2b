# %% [markdown]
# # Use the model elsewhere
#
# The exported file contains its preprocessing and its labels. Run it without this project, measure
# it, and take it to a browser or a phone.

# %%
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import metanas

ROOT = Path(metanas.__file__).parents[1]  # the clone
DIGITS = ROOT / "examples" / "digits"
FILE = Path(tempfile.mkdtemp()) / "digits.onnx"
space = metanas.load_checkpoint(ROOT / "meta_checkpoints" / "omniglot")
adapted = metanas.adapt(space, metanas.read_folder(DIGITS / "support"), seed=0)
FILE.write_bytes(adapted.onnx)

# %% [markdown]
# ## The contract of the file
#
# Input: uint8 pixels, one batch of images of one size. Outputs: `logits`, `probabilities`, and
# `known` from 0 (none of the classes) to 1.

# %%
session = onnxruntime.InferenceSession(FILE)
for value in (*session.get_inputs(), *session.get_outputs()):
    print(f"{value.name:14} {value.type:16} {value.shape}")
metadata = session.get_modelmeta().custom_metadata_map
labels = json.loads(metadata["metanas.labels"])
labels

# %%
files = sorted((DIGITS / "query").glob("*/*.png"))[::25]
images = np.stack([np.asarray(Image.open(file).convert("L"))[..., None] for file in files])
logits, probabilities, known = session.run(None, {"images": images})
for file, row in zip(files, probabilities, strict=True):
    print(f"{file.parent.name} -> {labels[row.argmax()]} ({row.max():.0%})")

# %% [markdown]
# ## Time of a query
#
# One image at a time, on one thread.

# %%
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(FILE, options)
seconds = []
for _ in range(50):
    began = time.perf_counter()
    session.run(None, {"images": images[:1]})
    seconds.append(time.perf_counter() - began)
f"{len(adapted.onnx) / 1e3:.0f} kB, median {np.median(seconds) * 1e3:.2f} ms an image"
