"""Join a Ray cluster, or start one on this host. Needs the extra "ray"."""

import os
import traceback

import ray

from metanas.errors import ClusterError

TOKEN = "; if it asks for a token, set RAY_AUTH_MODE=token, and have the token in ~/.ray/auth_token"


def join(address: str | None, cpus: int) -> None:
    """Join the cluster at this address; without one, start a cluster that ends with this process.

    cpus: CPUs of a cluster that is started.

    Raises:
        ClusterError: CLUSTER_UNREACHABLE, or CLUSTER_NOT_STARTED.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    try:
        if address:
            ray.init(address, log_to_driver=False)
        else:
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # Ray raises errors of many classes, plain Exceptions too
        message = last_line(str(error)) or repr(error)
        if not address:
            raise ClusterError("CLUSTER_NOT_STARTED", message) from error
        # Ray Client reports a missing token as a timeout.
        if "AuthenticationError" in traceback.format_exc() or address.startswith("ray://"):
            message += TOKEN
        message = f"the Ray cluster at {address} cannot be joined: {message}"
        raise ClusterError("CLUSTER_UNREACHABLE", message) from error


def last_line(text: str) -> str:
    """Shorten a traceback, or an explanation of Ray, to its last line."""
    return "".join(text.strip().splitlines()[-1:]).strip()
