"""Commands of `python -m metanas`: evaluation and the display of runs.

Arguments of the command line enter; tables, files and exit codes leave.
"""
