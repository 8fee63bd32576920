"""MLServer with adaptive batching: one worker per core, V2 REST with the JPEG in base64.

The only argument is the port.
"""

import asyncio
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtest.peers.graph import CORES, Graph

BATCH, WAIT_SECONDS = 8, 0.005


class Encode(MLModel):  # type: ignore[misc]
    """JPEGs to ids."""

    async def load(self) -> bool:
        self.graph = Graph(threads=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        jpegs = Base64Codec.decode_input(payload.inputs[0])
        ids = self.graph.ids(np.stack([self.graph.pixels(jpeg) for jpeg in jpegs]))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("ids", ids)]
        )


async def main(port: int) -> None:
    """Serve until a signal."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=0,
        metrics_endpoint=None,
        parallel_workers=CORES,
        gzip_enabled=False,
        debug=False,
    )
    model = ModelSettings(
        name="encode",
        implementation="loadtest.peers.mlserver_app.Encode",
        max_batch_size=BATCH,
        max_batch_time=WAIT_SECONDS,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
