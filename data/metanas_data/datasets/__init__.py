"""Data sets of labelled images, and the episodes that are drawn from them.

A folder or an npz file enters. For evaluations, `dataset` and `episodes` return the images as they
are stored. For meta-training, `stacks` and `tasks` return arrays `(N, C, H, W)`.
"""
