"""Benchmarks of time and memory: one command each, such as `python -m benchmarks.adapt --quick`.

Each writes every run to a JSON file and prints tables made of it. `benchmarks.harness` holds the
parts that they share. `studies` measures accuracy.
"""
