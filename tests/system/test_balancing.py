"""Load balancing over several servers of one name, and connections that servers close."""

import time
from collections.abc import Iterator

import psutil
from channeltok import Client

from tests.support.forwarding import over_tcp
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import running


def test_all_tritons_of_one_target_are_used() -> None:
    with running(engine_instances="1") as one, running(engine_instances="1") as other:
        with (
            over_tcp(one.triton_address()) as first,
            over_tcp(other.triton_address()) as second,
            running(triton_url=f"ipv4:{first},{second}", probe_seconds="60") as gateway,
            Client(gateway.grpc) as client,
        ):
            before = [
                sample(owner, "nv_inference_count", model_suffix="encode") for owner in (one, other)
            ]
            for _ in range(20):
                client.encode(jpeg())
            after = [
                sample(owner, "nv_inference_count", model_suffix="encode") for owner in (one, other)
            ]
        # Their own probes come on top.
        assert all(later - earlier >= 9 for later, earlier in zip(after, before, strict=True))


def test_closed_connections_cost_no_call() -> None:
    with (
        running(("-m", "tests.support.programs.ageing_triton")) as owner,
        over_tcp(owner.triton_address()) as address,
        running(triton_url=address, grpc_connection_seconds="0.3") as service,
        Client(service.grpc) as client,
    ):
        stream = client.encode_stream(slowly(40), k=4)
        to_gateway, to_triton = (int(url.rpartition(":")[2]) for url in (service.grpc, address))
        callers: dict[int, set[int]] = {to_gateway: set(), to_triton: set()}
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            client.encode(jpeg(), 4)
            for process in (psutil.Process(), psutil.Process(service.process.pid)):
                for connection in process.net_connections("tcp"):
                    if connection.raddr and connection.raddr.port in callers:
                        callers[connection.raddr.port].add(connection.laddr.port)
        assert all(len(ports) >= 5 for ports in callers.values()), callers
        answers = list(stream)
        assert len(answers) == 40
        assert not [answer for answer in answers if isinstance(answer, Exception)]


def slowly(count: int) -> Iterator[bytes]:
    for _ in range(count):
        time.sleep(0.05)
        yield jpeg()
