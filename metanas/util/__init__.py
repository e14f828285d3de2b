"""Small helpers: JSON of dataclasses, formatting of numbers, provenance and work in parts.

Values of the standard library enter and leave. No module here knows a model, an image or a run.
"""
