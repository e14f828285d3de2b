"""Help on the options of an adaptation: the comments of `AdaptationOptions`."""

from collections.abc import Mapping

OPTION_HELP: Mapping[str, str] = {
    'steps': 'Task-optimizer steps on weights and architecture parameters (alphas) together. Integer from 0 to 500.',
    'tuning_steps': 'Steps on the weights alone after pruning. Integer from 0 to 500.',
    'weight_lr': 'Step size on the weights. Number from 0 to 1.',
    'alpha_lr': 'Step size on the alphas; 0 keeps the meta-architecture. Number from 0 to 1.',
    'temperature_start': 'Temperature of the relaxation at the first step. Number from 0.001 to 10.',
    'temperature_end': 'Temperature at the last step, at most `temperature_start`. Number from 0.001 to 10.',
    'batch_size': 'Support images of a step; larger support sets go through in mini-batches. Integer from 1 to 1000.',
    'gradient_clip': 'Largest gradient norm. Number > 0, <= 1000000.',
    'patience': 'A stage ends early if the mean loss over this many steps equals that over as many steps before, with the same architecture; a search then cools for this many steps. 0 never ends early. Integer from 0 to 500.',
    'bilevel': 'Alphas on one half of the support set and weights on the other, first order.',
    'shift_pixels': "The model averages the features of each image and of four copies, shifted diagonally by this many pixels of its input. A query takes five times the arithmetic, a step none. Less than a quarter of the input's side; 0 makes no copies. For checkpoints without a trunk. Integer from 0 to 16.",
    'head': 'The linear layer over the features: "prototype" for class means, "ridge" for least squares with the penalty of the smallest leave-one-out error. One of "prototype", "ridge".',
    'max_macs': 'Most multiply-adds of the model for one image; 0 sets no limit. Integer from 0 to 2000000000.',
    'max_parameters': 'Most weights of the model, head included; 0 sets no limit. Integer from 0 to 2000000000.',
    'max_bytes': 'Most bytes of the ONNX file; 0 sets no limit. Integer from 0 to 2000000000.',
    'max_milliseconds': 'Most milliseconds of the model in ONNX Runtime for one image on one thread, by the table of the checkpoints, which `metanas profile` measures; 0 sets no limit. Number from 0 to 1000000.',
    'precision': 'Numbers of the file: "fp16" for weights in half precision, "int8" for large layers in 8 bits, calibrated on the support set. A file that answers differently is refused. One of "float32", "fp16", "int8".',
}
