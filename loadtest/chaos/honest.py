"""Honest callers at moderate load, and how long their calls take."""

import asyncio
import math
import threading
import time
from typing import Self

import numpy as np
from channeltok import AsyncClient, ChannelTokError

from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service

CALLERS = 2
PAUSE = 0.05  # of each caller between two calls


class Honest:
    """Callers that run inside `with`, each on a closed loop with pauses. Connected before it."""

    def __init__(self, service: Service, token: str) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._service, self._token = service, token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def p99(self, since: int = 0) -> float:
        """Seconds; NaN without a call. since: skip so many calls."""
        seconds = self.seconds[since:]
        return float(np.percentile(seconds, 99)) if seconds else math.nan

    async def _run(self) -> None:
        async with AsyncClient(
            self._service.grpc, 30, bearer_token=self._token, retries=False
        ) as client:
            await asyncio.gather(*(self._call(client, number) for number in range(CALLERS)))

    async def _call(self, client: AsyncClient, number: int) -> None:
        while not self._stop.is_set():
            number += 1
            started = time.perf_counter()
            try:
                await client.encode(IMAGES[number % len(IMAGES)])
                self.seconds.append(time.perf_counter() - started)
            except ChannelTokError as error:
                self.failures.append(error.code)
            await asyncio.sleep(PAUSE)
