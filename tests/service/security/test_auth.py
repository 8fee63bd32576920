from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.observability import metrics
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
