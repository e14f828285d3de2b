"""Commands of the core: meta-training, evaluation and the display of runs.

Arguments of the command line enter; tables, files and exit codes leave. `metanas.__main__` reads
the arguments and calls the command.
"""
