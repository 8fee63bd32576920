"""BentoML with adaptive batching: one worker per core."""

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from loadtest.peers.graph import CORES, Graph

BATCH, MAX_LATENCY_MS = 8, 1000


@bentoml.service(workers=CORES, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Encoder:
    """JPEGs to ids."""

    def __init__(self) -> None:
        self.graph = Graph(threads=1)

    @bentoml.api(
        route="/encode", batchable=True, max_batch_size=BATCH, max_latency_ms=MAX_LATENCY_MS
    )  # type: ignore[untyped-decorator]
    def encode(self, jpegs: list[Annotated[Path, ContentType("image/jpeg")]]) -> list[list[int]]:
        ids: list[list[int]] = self.graph.ids(
            np.stack([self.graph.pixels(jpeg.read_bytes()) for jpeg in jpegs])
        ).tolist()
        return ids
