"""The exported file: one ONNX model with its preprocessing and metadata.

A classifier in torch enters; checked ONNX bytes leave. A model that differs from torch in ONNX
Runtime never leaves.
"""
