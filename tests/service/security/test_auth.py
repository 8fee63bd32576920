import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.observability import metrics
from service.security import bearer_tokens
from service.security.auth import Authenticator, name_of_address
from service.security.bearer_tokens import BearerTokens


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("192.0.2.1", "address 192.0.2.1"),
        ("ipv4:192.0.2.1:5000", "address 192.0.2.1"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5000", "address 192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address 2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::1%5D:5000", "address 2001:db8:1:2::/64"),
        ("ipv6:[::1]:5000", "address ::/64"),
        ("unix:", "address unknown"),
        ("", "address unknown"),
    ],
)
def test_name_of_address_has_the_ipv4_address_or_ipv6_network(peer: str, name: str) -> None:
    assert name_of_address(peer) == name


@pytest.mark.parametrize(
    ("path", "rpc"),
    [
        ("/v1/encode", "encode"),
        ("/channeltok.v1.Tokenizer/DecodeStream", "decode_stream"),
        ("/channeltok.v1.Tokenizer/Generate", "generate"),
        ("/metrics", "other"),
        ("/v1/../../etc", "other"),
    ],
)
def test_authenticator_counts_refused_calls_by_rpc(tmp_path: Path, path: str, rpc: str) -> None:
    (file := tmp_path / "tokens").write_text("0123456789abcdef\n")
    authenticator = Authenticator(BearerTokens(file))
    count = metrics.ERRORS.labels(rpc, "UNAUTHENTICATED")
    before = count._value.get()
    with pytest.raises(Unauthenticated):
        authenticator.authenticate([], path, "192.0.2.1")
    assert count._value.get() == before + 1
    assert authenticator.authenticate(["Bearer 0123456789abcdef"], path, "").startswith("token ")


async def test_authenticator_cancels_a_call_whose_token_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer_tokens, "CHECK_SECONDS", 0.01)
    (file := tmp_path / "tokens").write_text("0123456789abcdef\n")
    authenticator, path = Authenticator(BearerTokens(file)), "/v1/generate"
    count = metrics.ERRORS.labels("generate", "UNAUTHENTICATED")
    before, cancelled = count._value.get(), False
    name = authenticator.authenticate(["Bearer 0123456789abcdef"], path, "")

    async def call() -> None:
        nonlocal cancelled
        async with authenticator.while_accepted(name, path):
            file.write_text("fedcba9876543210\n")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled = True
                raise

    with pytest.raises(Unauthenticated, match="no longer accepted"):
        await call()
    assert cancelled
    assert count._value.get() == before + 1
    task = asyncio.current_task()
    assert task
    assert not task.cancelling()


@pytest.mark.parametrize("error", [None, TimeoutError, ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("guarded", [True, False])
async def test_authenticator_passes_on_how_a_call_ends_by_itself(
    tmp_path: Path, guarded: bool, error: type[BaseException] | None
) -> None:
    (file := tmp_path / "tokens").write_text("0123456789abcdef\n")
    authenticator = Authenticator(BearerTokens(file) if guarded else None)
    tasks = asyncio.all_tasks()
    with pytest.raises(error) if error else nullcontext():
        async with authenticator.while_accepted("token", "/v1/generate"):
            if error:
                raise error
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
