"""Call that loads a model into a running Triton Inference Server."""

import grpc

from metanas_client.channel import Connection, open_channel
from metanas_client.errors import ClientError, Refused, Unavailable
from metanas_client.publish.convert import LoadRequest
from metanas_protos.inference import inference_service_pb2_grpc

ADVICE = (
    "Check the address of its gRPC port, and start it with --model-control-mode=explicit, "
    "which allows clients to load models."
)


async def load_model(address: str, request: LoadRequest) -> None:
    """Load a model from the file in the request.

    Raises:
        Unavailable: no server answers there, or it allows no client to load models.
        Refused: the server cannot load the model.
    """
    connection = Connection(address=address)
    channel = open_channel(connection)
    try:
        stub = inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.RepositoryModelLoad(request)
    except grpc.aio.AioRpcError as error:
        raise _translate(error, address) from error
    finally:
        await channel.close()


def _translate(error: grpc.aio.AioRpcError, address: str) -> ClientError:
    detail = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(address, detail, ADVICE, server="Triton server")
    message = f"the server at {address} has not loaded the model: {detail}"
    return Refused("TRITON_REFUSED", message)
