"""Run the commands of the core: `metanas`, or `python -m metanas` without the client."""

import sys

TYPE_CHECKING = False  # the import of `typing` takes longer than that of this module
if TYPE_CHECKING:
    import argparse

INTERRUPTED = 130

EXIT_CODES = """exit codes:
  0    done
  2    an input that cannot be used: an option, a file, a configuration, a missing package
  130  interrupted
  141  the reader of the output closed it
  128 and the number of a signal: training stopped by this signal, with a snapshot
"""


def parser() -> "argparse.ArgumentParser":
    """Build the parser of all commands."""
    import argparse

    from metanas import __version__
    from metanas.cli import evaluate, profile, runs, train, universal
    from metanas_data.suggest import Parser

    top = Parser(
        prog="metanas",
        description="Meta-trains supernets, and evaluates checkpoints in process.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metanas {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    train.add_commands(commands)
    evaluate.add_commands(commands)
    universal.add_commands(commands)
    profile.add_commands(commands)
    runs.add_commands(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        # imported here and below, so that an interruption of the imports is handled too
        return _run(arguments)
    except KeyboardInterrupt:
        again = "continue a training with --resume, an evaluation with the same --out"
        print(f"interrupted; {again}", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str] | None) -> int:
    import signal

    from metanas.errors import MetanasError
    from metanas.runs.progress import discard_output

    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    except BrokenPipeError:
        discard_output()
        return 128 + signal.SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
