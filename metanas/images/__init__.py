"""Images on their way to a support set: decoding, resizing, augmentation and shifted copies.

Encoded bytes or arrays `(H, W, C)` enter; tensors `(N, C, S, S)` leave. The exported ONNX graph
repeats the same preprocessing.
"""
