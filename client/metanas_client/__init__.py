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
"""

from metanas_client.aio import AsyncAdaptation, AsyncClient
from metanas_client.errors import (
    AdaptationCancelled,
    AdaptationFailed,
    Busy,
    ClientError,
    Conflict,
    DatasetError,
    DownloadDamaged,
    ForkedProcess,
    InvalidInput,
    MissingExtra,
    ModelFileError,
    NotAllowed,
    NotFound,
    NotWritable,
    Refused,
    ServerFault,
    TimedOut,
    Unavailable,
    Violation,
)
from metanas_client.model import Model
from metanas_client.resources import (
    AdaptationInfo,
    Checkpoint,
    InputSpec,
    Limits,
    ModelInfo,
    Progress,
    State,
)
from metanas_client.sync import Adaptation, Client

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
    "State",
    "TimedOut",
    "Unavailable",
    "Violation",
    "__version__",
]
