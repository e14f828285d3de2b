"""Exported models at their user: the ONNX file, prediction, and the cells inside.

A file and images enter; labels and probabilities leave. The package needs the extra `onnx`.
"""
