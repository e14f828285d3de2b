"""Building blocks: operations, kernels, stem, trunks, prototypes and the ONNX graph recorder.

Tensors `(N, C, H, W)` enter and leave. Each block computes in torch and emits the same computation
as ONNX nodes. Candidate operations are added in `ops`.
"""
