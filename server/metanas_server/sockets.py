"""Sockets to listen on, with errors that say which option to change."""

import errno
import socket

from metanas_server.errors import StartError


def bind(option: str, host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet.

    option: name of the option with the address.

    Raises:
        StartError: PORT_IN_USE, ADDRESS_INVALID.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as grpc does
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        cause = error.strerror if isinstance(error, OSError) else "the host is no valid name"
        message = f"cannot listen on {host}:{port}: {cause}; choose another --{option}"
        raise StartError("PORT_IN_USE" if in_use else "ADDRESS_INVALID", message) from error
    return bound
