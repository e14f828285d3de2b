"""The certificates of the server, read again as soon as their files have changed."""

import logging
import ssl
from pathlib import Path

import grpc

from metanas_server.errors import StartError
from metanas_server.watched import stamp

LOG = logging.getLogger(__name__)


class Certificates:
    """The files of TLS.

    New connections get the certificates of the files as they are now, without a restart. Files
    that do not belong together leave the last ones in use, since they are replaced one by one.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Read the files.

        Raises:
            StartError: TLS_INVALID.
        """
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._paths = tuple(path for path in (certificate, key, client_ca) if path is not None)
        self._stamp = stamp(*self._paths)
        self._first = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # type: ignore[arg-type]  # its type forgets None: nothing has changed
            require_client_authentication=self._client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new certificates; None if nothing has changed. gRPC asks at each connection."""
        now = stamp(*self._paths)
        if now == self._stamp:
            return None
        self._stamp = now
        try:
            loaded = self._load()
        except StartError as error:
            LOG.critical("the last certificates stay in use: %s", error)
            return None
        LOG.info("read the certificate %s again", self._certificate)
        return loaded

    def _load(self) -> grpc.ServerCertificateConfiguration:
        pair = (_read(self._key), _read(self._certificate))
        authorities = None if self._client_ca is None else _read(self._client_ca)
        # grpc logs the causes of a failure, but does not return them.
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            check.load_cert_chain(self._certificate, self._key, password="")
            if self._client_ca is not None:
                check.load_verify_locations(self._client_ca)
        except (ssl.SSLError, OSError) as error:
            flags = "--tls-cert, --tls-key and --tls-client-ca"
            cause = getattr(error, "reason", None) or error
            message = f"TLS is not possible with {flags}: {cause}; give PEM files"
            raise StartError("TLS_INVALID", message) from error
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; give a readable file"
        raise StartError("TLS_INVALID", message) from error
