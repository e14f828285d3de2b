"""Command line `metanas`: one module for each group of commands.

Arguments and a client enter; tables, JSON, files and an exit code leave. All output goes through
`screen`.
"""
