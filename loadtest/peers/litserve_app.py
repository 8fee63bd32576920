"""LitServe with batching: one worker per core. The only argument is the port."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request, UploadFile

from loadtest.peers.graph import CORES, Graph

BATCH, WAIT_SECONDS = 8, 0.005


class Encode(litserve.LitAPI):  # type: ignore[misc]
    """JPEG to ids."""

    def setup(self, device: str) -> None:
        self.graph = Graph(threads=1)

    def decode_request(self, request: Request) -> Any:
        # A form, as LitServe parses every other body as JSON.
        jpeg: UploadFile = request["jpegs"]
        return self.graph.pixels(jpeg.file.read())

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.graph.ids(x)

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[int]]:
        return {"ids": output.tolist()}


if __name__ == "__main__":
    api = Encode(max_batch_size=BATCH, batch_timeout=WAIT_SECONDS, api_path="/encode")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
