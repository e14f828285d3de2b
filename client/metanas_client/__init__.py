"""Python SDK and command line of MetaNAS Server.

Labelled images and the address of a server enter; a small ONNX model leaves. The package needs
neither torch nor onnx.

```python
from metanas_client import Client

with Client("127.0.0.1:50051") as client:
    adaptation = client.adapt("digits/support", seed=0)
    for step in adaptation.progress():
        print(step.stage, step.step, step.accuracy)
    model = adaptation.result()
model.save("model.onnx")
print(model.predict(["query.png"])[0].label)      # needs metanas-client[onnx]
```

The public names load when they are first used (PEP 562), so `metanas --help` needs no gRPC.
"""

TYPE_CHECKING = False  # the import of `typing` would take longer than that of this package
if TYPE_CHECKING:
    from metanas_client._api import (
        Adaptation,
        AdaptationCancelled,
        AdaptationFailed,
        AdaptationInfo,
        AsyncAdaptation,
        AsyncClient,
        Busy,
        Checkpoint,
        Client,
        ClientError,
        Conflict,
        DatasetError,
        DownloadDamaged,
        ForkedProcess,
        InputSpec,
        InvalidInput,
        Limits,
        MissingExtra,
        Model,
        ModelFileError,
        ModelInfo,
        NotAllowed,
        NotFound,
        NotWritable,
        Progress,
        Refused,
        ServerFault,
        SignatureError,
        State,
        TimedOut,
        Unavailable,
        Variant,
        Violation,
    )

__version__ = "0.1.0"

__all__ = [
    "Adaptation",
    "AdaptationCancelled",
    "AdaptationFailed",
    "AdaptationInfo",
    "AsyncAdaptation",
    "AsyncClient",
    "Busy",
    "Checkpoint",
    "Client",
    "ClientError",
    "Conflict",
    "DatasetError",
    "DownloadDamaged",
    "ForkedProcess",
    "InputSpec",
    "InvalidInput",
    "Limits",
    "MissingExtra",
    "Model",
    "ModelFileError",
    "ModelInfo",
    "NotAllowed",
    "NotFound",
    "NotWritable",
    "Progress",
    "Refused",
    "ServerFault",
    "SignatureError",
    "State",
    "TimedOut",
    "Unavailable",
    "Variant",
    "Violation",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'metanas_client' has no attribute {name!r}")
    import metanas_client._api

    return getattr(metanas_client._api, name)
