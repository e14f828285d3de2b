"""Run the command line: `metanas`, or `python -m metanas_client`."""

import sys

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        # imported here, so that an interruption of the imports is handled too
        from metanas_client.cli.program import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("metanas: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
