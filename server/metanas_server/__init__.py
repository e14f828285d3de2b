"""The service of MetaNAS Server: a gRPC front and worker processes.

Calls enter at `api`; `jobs` queues them; `workers` computes them; `storage` writes them to disk,
and `records` into a database. Records, progress and ONNX models leave. `app` assembles the parts.
"""
