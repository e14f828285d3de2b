"""Query a model by the client of KServe: python kserve_query.py ADDRESS MODEL IMAGES.NPY.

It prints the probabilities as JSON: of raw elements, and of typed ones.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, model: str, images: Any) -> None:
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(model)
        answers = []
        for binary in (True, False):
            tensor = InferInput("images", list(images.shape), "UINT8")
            tensor.set_data_from_numpy(images, binary_data=binary)
            answer = await client.infer(InferRequest(model, [tensor]))
            (output,) = [each for each in answer.outputs if each.name == "probabilities"]
            answers.append(output.as_numpy().tolist())
        print(json.dumps(answers))


asyncio.run(main(sys.argv[1], sys.argv[2], np.load(sys.argv[3])))
