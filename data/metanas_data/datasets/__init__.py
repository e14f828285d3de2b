"""Data sets of labelled images, and the episodes that are drawn from them.

A folder or an npz file enters. `dataset` and `episodes` give evaluations the images as they are
stored; `stacks` and `tasks` give meta-training arrays `(N, C, H, W)`.
"""
