import pytest

from service.security.auth import name_of_address


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
