"""Laws of tokens: prefixes, independence of the batch, and equality after a restart."""

import random
from concurrent.futures import ThreadPoolExecutor

from channeltok import Client, Tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.metrics import sample
from tests.support.photographs import crops, jpeg
from tests.support.running import Service, running


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(k=st.integers(1, 256), photo=st.sampled_from(crops(10)))
def test_prefix(client: Client, k: int, photo: bytes) -> None:
    assert client.encode(photo, k) == client.encode(photo).prefix(k)


def test_same_tokens_alone_and_inside_any_batch(service: Service, client: Client) -> None:
    photos = list(crops(200))
    alone = [client.encode(photo) for photo in photos]

    company = [*photos, *crops(60, seed=1)]
    order = random.Random(7).sample(range(len(company)), len(company))
    before = _executions(service)
    with ThreadPoolExecutor(16) as pool:
        mixed = dict(zip(order, pool.map(lambda i: client.encode(company[i]), order), strict=True))
    requests, executions = (
        after - earlier for after, earlier in zip(_executions(service), before, strict=True)
    )
    assert executions < requests, "nothing was batched, so nothing was proven"
    assert [mixed[i] for i in range(len(photos))] == alone

    assert list(client.encode_stream(photos)) == alone


def test_same_images_alone_and_inside_any_batch(client: Client) -> None:
    sequences = [tokens for tokens in client.encode_stream(crops(60)) if isinstance(tokens, Tokens)]
    shortened = [tokens.prefix(1 + 4 * i) for i, tokens in enumerate(sequences)]
    alone = [client.decode(tokens) for tokens in shortened]
    assert list(client.decode_stream(shortened)) == alone


def test_same_tokens_after_a_restart(client: Client) -> None:
    expected = [client.encode(photo) for photo in crops(20)]
    with running() as second, Client(second.grpc) as other:
        assert [other.encode(photo) for photo in crops(20)] == expected


def test_batching_at_16_clients(service: Service, client: Client) -> None:
    before = _executions(service)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: client.encode(jpeg()), range(160)))
    requests, executions = (
        after - earlier for after, earlier in zip(_executions(service), before, strict=True)
    )
    # The supervisor's own probes are among them.
    assert requests >= 160
    assert executions < 0.8 * requests


def _executions(service: Service) -> tuple[float, float]:
    """Triton's own count of encode inferences and executions, from the metrics page."""
    return sample(service, "nv_inference_count", "_encode"), sample(
        service, "nv_inference_exec_count", "_encode"
    )
