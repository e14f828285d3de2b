"""The shipped checkpoints as files of a package, which `importlib.resources` finds.

Each folder is a checkpoint with a README. `prior.json` chooses one for requests that name none.
"""
