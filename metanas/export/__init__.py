"""The exported file: one ONNX model with its preprocessing and metadata.

A classifier in torch enters; checked ONNX bytes leave. If ONNX Runtime and torch differ, it raises
`ExportMismatch` and no file leaves.
"""
