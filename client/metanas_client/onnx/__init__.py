"""Exported models on the side of the client: the ONNX file, prediction and cells.

A file and images enter; labels and probabilities leave. The package needs the extra `onnx`.
"""
