"""Ray Serve with batching: one replica per core. The only argument is the port."""

import sys
import time

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from loadtest.peers.graph import CORES, Graph

BATCH, WAIT_SECONDS = 8, 0.005


@serve.deployment(
    num_replicas=CORES, max_ongoing_requests=2 * BATCH, ray_actor_options={"num_cpus": 0.5}
)
class Encode:
    """JPEG to ids."""

    def __init__(self) -> None:
        self._graph = Graph(threads=1)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def _ids(self, jpegs: list[bytes]) -> list[list[int]]:
        ids: list[list[int]] = self._graph.ids(
            np.stack([self._graph.pixels(jpeg) for jpeg in jpegs])
        ).tolist()
        return ids

    async def __call__(self, request: Request) -> dict[str, list[int]]:
        return {"ids": await self._ids(await request.body())}


if __name__ == "__main__":
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Encode.bind(), route_prefix="/encode")  # type: ignore[attr-defined]
    while True:
        time.sleep(60)
