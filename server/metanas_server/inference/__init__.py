"""Queries to adapted models by the Open Inference Protocol, on the port of the server.

Images and the name of a model enter, outputs of the model leave. ONNX Runtime opens a model with
its first query (`open_model`); open models stay in memory up to a number of bytes (`model_cache`).
A few threads decode images and run models (`engine`), and callers take turns (`turns`), so nothing
of this runs on the event loop. Messages of the protocol are known to `convert` and `service` only.
"""
