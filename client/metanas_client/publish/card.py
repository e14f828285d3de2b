"""Card of a model in the form of model hubs: Markdown with front matter in YAML."""

import json

from metanas_client.estimates import estimate_rows
from metanas_client.onnx.model_file import ModelFile
from metanas_client.text import number, size
from metanas_data.report import Report

TAGS = ("few-shot", "image-classification", "meta-learning", "metanas", "onnx")
PROGRAM = """```python
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
pixels = np.asarray(Image.open("new.jpg").convert("{mode}"){resize})
images = pixels.reshape(1, *pixels.shape[:2], {channels})
logits, probabilities, known = session.run(None, {{"images": images}})
```"""


def model_card(name: str, model: ModelFile, report: Report | None) -> str:
    """Write the card of a model; the report of its adaptation adds its estimates."""
    facts = [("file", size(model.size)), *model.provenance.items()]
    if report is not None:
        facts = [
            *estimate_rows(report.leave_one_out),
            ("parameters", number(report.parameters)),
            ("multiply-adds an image", number(report.macs)),
            *facts,
        ]
    mode = "L" if model.channels == 1 else "RGB"
    fixed, takes, resize = model.form.size, "uint8 pixels of any size", ""
    if fixed is not None:
        height, width = fixed
        takes = f"the uint8 pixels of one image of {height} rows and {width} columns"
        resize = f".resize(({width}, {height}))"
    parts = [
        _front_matter(name, model, report),
        f"# {_escaped(name)}",
        f"Classifies images of {len(model.labels)} classes: {_escaped(', '.join(model.labels))}. "
        "MetaNAS adapted its architecture and weights to a few labelled images. The file contains "
        f"the preprocessing: it takes {takes}. Below 0.5, `known` says that an "
        "image is probably of none of the classes.",
        PROGRAM.format(mode=mode, channels=model.channels, resize=resize),
        "\n".join(
            ["| | |", "|---|---|", *(f"| {title} | {_escaped(text)} |" for title, text in facts)]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(name: str, model: ModelFile, report: Report | None) -> str:
    """Write the fields that hubs read; JSON is YAML, too."""
    fields: dict[str, object] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": TAGS,
    }
    left_out = None if report is None else report.leave_one_out
    if left_out is not None:
        # a hub shows results only with a data set, which is here the support set
        data = {"name": "support set, leave-one-out", "type": model.text("support_digest")}
        result = {
            "task": {"type": "image-classification"},
            "dataset": data,
            "metrics": [{"type": "accuracy", "value": round(left_out.accuracy, 4)}],
        }
        fields["model-index"] = [{"name": name, "results": [result]}]
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _escaped(text: str) -> str:
    """Keep labels and paths from being read as Markdown or HTML."""
    for character in "\\`*[]<>|":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
