"""A meta-training run on disk: folder, snapshots, log, signals and displays of progress.

The state of a trainer enters; files leave. A run resumes from them.
"""
