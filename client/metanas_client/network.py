"""Addresses, proxies, and advice for a server that cannot be reached."""

import ipaddress
from collections.abc import Mapping

from metanas_client.errors import InvalidInput

SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:")
"""Name resolvers of gRPC that an address may begin with."""
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""The first of these that is set contains the address of the proxy, as in gRPC itself."""
NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")
LARGEST_PORT = 65_535


def check_address(address: str) -> None:
    """Check that an address is host:port, or a target that gRPC resolves.

    Raises:
        InvalidInput: ADDRESS, with the form to write instead.
    """
    scheme, separator, rest = address.partition("://")
    if separator and f"{scheme}:" not in SCHEMES:
        place = rest.partition("/")[0] or "host:port"
        tls = " and use TLS (--tls, or tls=True)" if scheme in {"https", "grpcs"} else ""
        raise _bad_address(f"{address!r} is a URL: write {place!r}{tls}")
    if address.startswith("unix"):
        return
    host, colon, port = address.rpartition(":")
    digits = port.isascii() and port.isdigit()
    if not (host and colon and digits and 0 < int(port) <= LARGEST_PORT):
        raise _bad_address(
            f"{address!r} is no address: write host:port with a port from 1 to {LARGEST_PORT}"
        )


def is_local(address: str) -> bool:
    """Return True if an address is a socket of this machine, which no proxy can reach."""
    if address.startswith("unix"):
        return True
    host = host_of(address)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """Return the host of an address, without resolver, port and brackets."""
    for scheme in SCHEMES:
        address = address.removeprefix(scheme)
    return address.rpartition("/")[2].rpartition(":")[0].strip("[]").lower()


def proxy_for(address: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable and the host:port of the proxy that gRPC uses, None if it uses none."""
    variables = (name for name in PROXY_VARIABLES if environment.get(name))
    variable = next(variables, None)
    if variable is None or is_local(address):
        return None
    excluded = next((environment[n] for n in NO_PROXY_VARIABLES if environment.get(n)), "")
    suffixes = [entry.strip().lower() for entry in excluded.split(",") if entry.strip()]
    if "*" in suffixes or any(host_of(address).endswith(suffix) for suffix in suffixes):
        return None
    # leave out the user name and the password before the @
    return variable, environment[variable].rpartition("//")[2].rpartition("@")[2]


def advice(
    address: str, detail: str, *, secure: bool, certificate: bool, proxy: tuple[str, str] | None
) -> str:
    """Return the advice for a server that cannot be reached; empty if there is none.

    Args:
        address: of the server.
        detail: the message of gRPC.
        secure: TLS is used.
        certificate: the client shows a certificate.
        proxy: variable and address of the proxy on the way, from `proxy_for`.
    """
    if proxy is not None:
        variable, place = proxy
        return (
            f"The connection uses the proxy {place} of the environment variable {variable}; set "
            f"no_proxy={host_of(address)} to connect without it."
        )
    if secure and "WRONG_VERSION_NUMBER" in detail:
        return "The server speaks no TLS: leave out --tls, --ca and --cert."
    if secure and "CERTIFICATE_VERIFY_FAILED" in detail:
        return "The server's certificate is not trusted: name its authority with --ca."
    if secure and not certificate and "Socket closed" in detail:
        return "The server closed the connection. Does it ask for a certificate? See --cert, --key."
    if not secure and "Expected SETTINGS frame" in detail:
        return "The port speaks HTTP/1, as that of --studio does: name the port of --listen."
    if not secure and "Socket closed" in detail:
        return (
            "The server closed the connection, as a server with TLS does: add --tls, or --ca with "
            "the certificate of its authority."
        )
    return ""


def _bad_address(message: str) -> InvalidInput:
    return InvalidInput.single("server", "ADDRESS", message)
