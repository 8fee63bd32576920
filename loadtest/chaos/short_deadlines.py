"""Clients with deadlines that are too short: their work is lost, so the engine must do little of it
while others wait."""

import asyncio
import itertools
import random
import statistics
import time
from collections import Counter

import grpc
from channeltok import Client
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, running

PATIENT, IMPATIENT = 16, 24  # numbers of clients
SHORTEST = 0.001  # seconds
# The longest deadline, times what an image takes alone; among so many clients it takes six times
# that.
LONGEST = 10
PAUSE = 0.1  # seconds after a refusal, as the retry hint suggests
OK, LATE, REFUSED = "OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"


def short_deadlines(short: bool) -> Rows:
    seconds = 2.0 if short else 10.0
    with running() as service:
        asyncio.run(_calls(service, PATIENT, 0, 2.0))  # warm-up
        longest = LONGEST * _seconds_alone(service)
        alone, _ = asyncio.run(_calls(service, PATIENT, 0, seconds))
        patient, beside = asyncio.run(_calls(service, PATIENT, IMPATIENT, seconds, longest))
        _, only = asyncio.run(_calls(service, 0, IMPATIENT, seconds, longest))
        replaced = service.events("restarting") + service.events("reloading")
    label = f"Encode, {PATIENT} patient clients: answered"
    yield Row("short_deadlines_none", label, alone[OK] / seconds, unit=" /s")
    label = (
        f"plus {IMPATIENT} with deadlines of 1 to {1000 * longest:.0f} ms,"
        f" {LONGEST} times an image alone: answered in time, share of that"
    )
    share = (patient[OK] + beside[OK]) / alone[OK]
    note = f"patient: {_codes(patient)}; the others: {_codes(beside)}"
    yield Row("short_deadlines_beside_goodput", label, share, 0.6, at_least=True, note=note)
    label, share = f"{IMPATIENT} such clients alone: the same", only[OK] / alone[OK]
    yield Row("short_deadlines_only_goodput", label, share, 0.2, at_least=True, note=_codes(only))
    others = [code for code in (patient + alone).elements() if code not in (OK, REFUSED)]
    others += [code for code in (beside + only).elements() if code not in (OK, REFUSED, LATE)]
    label = "neither answered, refused nor late"
    yield Row("short_deadlines_other_answers", label, len(others), 0, note=tally(others))
    label = "tritonservers and engines that had to be replaced"
    yield Row("short_deadlines_replaced", label, len(replaced), 0)


def _seconds_alone(service: Service) -> float:
    """Median of 20 calls, one after the other."""
    seconds = []
    with Client(service.grpc) as client:
        for image in itertools.islice(itertools.cycle(IMAGES), 20):
            started = time.perf_counter()
            client.encode(image)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


async def _calls(
    service: Service, patient: int, impatient: int, seconds: float, longest: float = 30.0
) -> tuple[Counter[str], Counter[str]]:
    """gRPC status codes of the patient and of the impatient clients, in closed loops.

    longest: longest deadline of the impatient ones, in seconds.
    """
    end = time.monotonic() + seconds
    codes: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]

        async def client(number: int) -> None:
            hurried = number >= patient
            rng = random.Random(number)
            while time.monotonic() < end:
                code = OK
                try:
                    request = pb.EncodeRequest(image=rng.choice(IMAGES))
                    timeout = rng.uniform(SHORTEST, longest) if hurried else 30
                    await stub.Encode(request, timeout=timeout)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                codes[hurried][code] += 1
                if code == REFUSED:
                    await asyncio.sleep(PAUSE)

        await asyncio.gather(*(client(number) for number in range(patient + impatient)))
    return codes


def _codes(codes: Counter[str]) -> str:
    return tally(list(codes.elements())) or "none"
