"""Adaptation of a checkpoint to a support set, one job from top to bottom.

Labelled images and options enter; an ONNX model and its report leave. The same seed gives the same
bytes.
"""
