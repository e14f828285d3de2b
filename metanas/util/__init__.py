"""Small helpers: JSON of dataclasses, formatting of numbers, provenance and work in parts.

Values of the standard library enter and leave. Of the core, the modules import `metanas.errors`
alone.
"""
