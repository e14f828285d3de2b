"""The shipped checkpoints as files of a package, which `importlib.resources` finds.

Each folder is a checkpoint with a README. `universal.json` joins them for requests that name none.
"""
