"""Adaptation of a checkpoint to a support set. `job` is one request from top to bottom.

Labelled images and options enter; an ONNX model and its report leave. The same seed gives the same
bytes.
"""
