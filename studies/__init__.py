"""Studies of accuracy: settings, variants and shipped checkpoints on the same episodes.

Each study stores the figures of every episode in a JSON file; `python -m studies.page` fills the
tables of the documentation from these files. `benchmarks` measures time and memory.
"""
