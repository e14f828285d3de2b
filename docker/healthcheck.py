"""The HEALTHCHECK of the image: exit code 0 when the server in this container says SERVING.

Reads the variables that configure the server. With TLS the server's certificate has to be valid for
the name in METANAS_HEALTH_NAME (default: localhost); servers that require client certificates need
a health check of their own.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

TIMEOUT_SECONDS = 3.0


def main(environment: Mapping[str, str]) -> int:
    """Ask once; returns the exit code."""
    _, _, port = environment.get("METANAS_LISTEN", "127.0.0.1:50051").rpartition(":")
    try:
        with _channel(f"127.0.0.1:{port}", environment) as channel:
            reply = _check(channel)
    except grpc.RpcError as error:
        print(error, file=sys.stderr)
        return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


def _check(channel: grpc.Channel) -> health_pb2.HealthCheckResponse:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)


def _channel(address: str, environment: Mapping[str, str]) -> grpc.Channel:
    certificate = environment.get("METANAS_TLS_CERT")
    if certificate is None:
        return grpc.insecure_channel(address)
    name = environment.get("METANAS_HEALTH_NAME", "localhost")
    credentials = grpc.ssl_channel_credentials(root_certificates=Path(certificate).read_bytes())
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


if __name__ == "__main__":
    sys.exit(main(os.environ))
