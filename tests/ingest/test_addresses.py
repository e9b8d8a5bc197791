import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.addresses import is_allowed

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"]
PRIVATE = [
    "127.0.0.1", "127.255.255.255", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1",
    "0.0.0.0", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "192.88.99.1",
    "::1", "fc00::1", "fd12::1", "fec0::1", "2001:db8::1", "3fff::1", "5f00::1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "fd00:ec2::254",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.0.9",
    "fd20:ce::254", "64:ff9b:1::a9fe:a9fe", "::169.254.169.254",
    "::ffff:0:169.254.169.254", "::", "::8.8.8.8",
]  # fmt: skip


def carriers(address: str) -> list[str]:
    """The v6 addresses that carry this v4 address."""
    number = int(ipaddress.IPv4Address(address))
    teredo_server = int(ipaddress.IPv4Address("8.8.4.4"))
    return [
        str(ipaddress.IPv6Address(value))
        for value in (
            0xFFFF << 32 | number,  # v4-mapped
            0x64FF9B << 96 | number,  # NAT64
            0x2002 << 112 | number << 80 | 1,  # 6to4
            0x20010000 << 96 | teredo_server << 64 | (number ^ 0xFFFFFFFF),
        )
    ]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(address)
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_permission(address: str) -> None:
    assert not is_allowed(address)
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_multicast_are_never_allowed(address: str) -> None:
    assert not is_allowed(address)
    assert not is_allowed(address, allow_private=True)


@pytest.mark.parametrize("text", ["", "localhost", "8.8.8", "08.8.8.8", "8.8.8.8/8", "/run/docker.sock"])
def test_what_is_no_address_is_not_allowed(text: str) -> None:
    assert not is_allowed(text, allow_private=True)


@given(st.ip_addresses(v=4).map(str), st.booleans())
def test_a_carrier_is_allowed_exactly_when_what_it_carries_is(address: str, allow_private: bool) -> None:
    for carrier in carriers(address):
        assert is_allowed(carrier, allow_private=allow_private) == is_allowed(
            address, allow_private=allow_private
        ), carrier


@given(st.ip_addresses(v=4))
def test_no_v4_address_that_the_registry_calls_private_is_allowed(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert not is_allowed(str(address))
