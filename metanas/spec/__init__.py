"""Descriptions that need no torch: options, cards, search spaces, genotypes, examples and progress.

Plain values and JSON enter; frozen, validated dataclasses leave. The front of the server imports
nothing else of the core.
"""
