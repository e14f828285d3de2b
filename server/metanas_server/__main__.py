"""Run the command `metanas-server`, or `python -m metanas_server`."""

import sys

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the server and return the exit code."""
    try:
        # imported here, so that an interruption of the imports is handled too
        from metanas_server.program import run_server

        return run_server(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("metanas-server: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
