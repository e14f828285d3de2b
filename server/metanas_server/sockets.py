"""Addresses and sockets to listen on, with errors that say which option to change."""

import errno
import ipaddress
import re
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


def metrics_address_of(text: str) -> tuple[str, int]:
    """Return host and port of `--metrics`: HOST:PORT, or PORT of this machine.

    Raises:
        StartError: ADDRESS_INVALID.
    """
    port = re.fullmatch(r":?(\d+)", text)
    return address_of("metrics", f"127.0.0.1:{port[1]}" if port else text)


def address_of(option: str, text: str) -> tuple[str, int]:
    """Split HOST:PORT into the host, without the brackets of IPv6, and the port.

    option: name of the option with the address.

    Raises:
        StartError: ADDRESS_INVALID.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise StartError("ADDRESS_INVALID", f"--{option} {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Return True if a host can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
