"""Callers whose deadlines are too short. What is done for them is lost, and the engine must not do much of it while others wait."""

import asyncio
import random
import time
from collections import Counter

import grpc
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import PHOTOS
from loadtest.harness.service_process import Service, running

PATIENT, IMPATIENT = 16, 24
DEADLINES = (0.001, 0.1)  # seconds; alone an image takes some 10 ms, among so many callers some 60
PAUSE = 0.1  # of who is refused, as the hint says
OK, LATE, REFUSED = "OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"


def impatient(short: bool) -> Rows:
    seconds = 2.0 if short else 15.0
    with running() as service:
        asyncio.run(_calls(service, PATIENT, 0, 2.0))  # engines are slower at first
        alone, _ = asyncio.run(_calls(service, PATIENT, 0, seconds))
        patient, beside = asyncio.run(_calls(service, PATIENT, IMPATIENT, seconds))
        _, only = asyncio.run(_calls(service, 0, IMPATIENT, seconds))
        replaced = service.events("restarting") + service.events("reloading")
    yield Row(
        "impatient_none",
        f"Encode, {PATIENT} callers who stay: answered",
        alone[OK] / seconds,
        unit=" /s",
    )
    yield Row(
        "impatient_beside_goodput",
        f"beside {IMPATIENT} with deadlines of 1 to 100 ms: answered in time, share of that",
        (patient[OK] + beside[OK]) / alone[OK],
        0.6,
        at_least=True,
        note=f"those who stay: {_codes(patient)}; the others: {_codes(beside)}",
    )
    share = only[OK] / alone[OK]
    yield Row(
        "impatient_only_goodput",
        f"{IMPATIENT} such callers alone: the same",
        share,
        0.2,
        at_least=True,
        note=_codes(only),
    )
    others = [code for code in (patient + alone).elements() if code not in (OK, REFUSED)]
    others += [code for code in (beside + only).elements() if code not in (OK, REFUSED, LATE)]
    yield Row(
        "impatient_other_answers",
        "neither answered, refused nor late",
        len(others),
        0,
        note=counted(others),
    )
    yield Row(
        "impatient_replaced", "tritonservers and engines that had to be replaced", len(replaced), 0
    )


async def _calls(
    service: Service, patient: int, impatient: int, seconds: float
) -> tuple[Counter[str], Counter[str]]:
    """How the calls of both kinds of callers ended, by gRPC's code. Each calls again when it was answered."""
    end = time.monotonic() + seconds
    ended: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]

        async def caller(number: int, leaves: bool) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                code = OK
                try:
                    request = pb.EncodeRequest(image=chance.choice(PHOTOS))
                    await stub.Encode(request, timeout=chance.uniform(*DEADLINES) if leaves else 30)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                ended[leaves][code] += 1
                if code == REFUSED:
                    await asyncio.sleep(PAUSE)

        await asyncio.gather(
            *(caller(number, number >= patient) for number in range(patient + impatient))
        )
    return ended


def _codes(ended: Counter[str]) -> str:
    return counted(list(ended.elements())) or "none"
