"""Run the cases of a folder in a runtime: python in_python.py RUNTIME FOLDER IMAGES.

It prints the probabilities of the first images of each case as JSON, by the names of the cases, or
the error of the runtime. It needs numpy and the runtime alone, since each runtime has packages of
its own.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]
"""From an image (1, H, W, C) to its probabilities (1, ways)."""


def onnxruntime(model: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["probabilities"], {"images": image})[0]


def openvino(model: str) -> Run:
    import openvino

    # half precision is the default of some processors
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: compiled({"images": image})["probabilities"]


def opencv(model: str) -> Run:
    import cv2

    network = cv2.dnn.readNetFromONNX(model)

    def run(image: Any) -> Any:
        network.setInput(image, "images")
        return network.forward(["logits", "probabilities", "known"])[1]

    return run


def tract(model: str) -> Run:
    import tract

    runnable = tract.onnx().load(model).into_model().into_runnable()
    return lambda image: runnable.run([image])[1].to_numpy()


def mnn(model: str) -> Run:
    import _tools  # the converter of MNN without its command, which reports its use to a server
    from MNN import expr, nn

    converted = model.replace(".onnx", ".mnn")
    words = ("MNNConvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", converted)
    _tools.mnnconvert([*words, "--bizCode", "metanas"])
    network = nn.load_module_from_file(converted, ["images"], ["probabilities"])

    def run(image: Any) -> Any:
        pixels = expr.const(image, list(image.shape), expr.NCHW, expr.uint8)
        return np.array(network.onForward([pixels])[0].read())

    return run


def reference(model: str) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(model)
    return lambda image: evaluator.run(["probabilities"], {"images": image})[0]


RUNTIMES = {each.__name__: each for each in (onnxruntime, openvino, opencv, tract, mnn, reference)}


def answers(load: Callable[[str], Run], folder: Path, most: int) -> dict[str, Any]:
    """Return the probabilities of the first images of each case, or an error."""
    found: dict[str, Any] = {}
    for case in json.loads((folder / "cases.json").read_text()):
        try:
            run = load(str(folder / case["model"]))
            images = [_read(folder, image) for image in case["images"][:most]]
            found[case["name"]] = [np.asarray(run(image))[0].tolist() for image in images]
        except Exception as error:  # each runtime has errors of its own
            found[case["name"]] = f"{type(error).__name__}: {error}"[:500]
    return found


def _read(folder: Path, image: dict[str, Any]) -> Any:
    return np.fromfile(folder / image["file"], np.uint8).reshape(image["shape"])


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # libraries print there, too
        found = answers(RUNTIMES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]))
        json.dump(found, output)
