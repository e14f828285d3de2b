"""Exit codes of the command line."""

from collections.abc import Mapping

from metanas_client.errors import (
    AdaptationCancelled,
    AdaptationFailed,
    DownloadDamaged,
    Refused,
    SignatureError,
    Unavailable,
)
from metanas_data.errors import MetanasError

OK = 0
CHECK_FAILED = 1
BAD_INPUT = 2
UNREACHABLE = 3
SERVER_FAILED = 4
READER_GONE = 141

EXPLAINED = """exit codes:
  0    done
  1    a check failed: the model file computes wrong values, or is not signed by the key
  2    bad input: an argument, a file, a support set, an option, a missing package
  3    no server answers
  4    the server refused or failed, or the adaptation did
  130  interrupted
  141  the reader of the output closed it
  128 and the number of a signal: training stopped by this signal, with a snapshot
"""

BY_CLASS: Mapping[type[MetanasError], int] = {
    Unavailable: UNREACHABLE,
    Refused: SERVER_FAILED,
    AdaptationFailed: SERVER_FAILED,
    AdaptationCancelled: SERVER_FAILED,
    DownloadDamaged: SERVER_FAILED,
    SignatureError: CHECK_FAILED,
    MetanasError: BAD_INPUT,
}
"""By class of error; the nearest ancestor counts."""


def exit_code(error: MetanasError) -> int:
    """Return the exit code of an error."""
    return next(BY_CLASS[kind] for kind in type(error).__mro__ if kind in BY_CLASS)
