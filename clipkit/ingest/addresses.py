"""Which IP addresses may be connected to: a URL list is hostile, and the network around us is not public."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NEVER_V4 = (
    IPv4Network("169.254.0.0/16"),  # link-local: a cloud's metadata service hands out credentials here
    IPv4Network("100.100.100.200/32"),  # other clouds' metadata services
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.0/24"),  # and another one's in it; some ipaddress modules call parts of it public
    IPv4Network("224.0.0.0/4"),
)
_NEVER_V6 = (
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::/32"),  # the metadata services over IPv6
    IPv6Network("fd20:ce::254/128"),
    IPv6Network("::ffff:0:0:0/96"),  # translated IPv4 (RFC 2765)
    IPv6Network("64:ff9b:1::/48"),  # local-use translation (RFC 8215) to addresses that cannot be told
    IPv6Network("ff00::/8"),
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637, newer than some ipaddress modules
_RELAY_ANYCAST = IPv4Network("192.88.99.0/24")  # RFC 7526
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = IPv6Network("::/96")  # an IPv4 address behind zeros, RFC 4291; ::1 is in it


def is_allowed(address: str, *, allow_private: bool = False) -> bool:
    """Tell whether a connection to this IP address (text, v4 or v6) is allowed.

    Only globally routable unicast addresses are; one that carries v4 addresses (v4-mapped, NAT64, 6to4,
    Teredo) counts as those. With `allow_private` all are but link-local, multicast and metadata
    addresses. What is no IP address is not allowed.
    """
    try:
        outer = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_allowed(each, allow_private) for each in _inner(outer) or (outer,))


def _is_allowed(address: IPv4Address | IPv6Address, allow_private: bool) -> bool:
    if isinstance(address, IPv4Address):
        never = any(address in network for network in _NEVER_V4)
        public = address.is_global and not address.is_reserved and address not in _RELAY_ANYCAST
    else:
        never = any(address in network for network in _NEVER_V6)
        never |= address in _COMPATIBLE and not address.is_loopback
        public = address.is_global and address in _GLOBAL_UNICAST and address not in _DOCUMENTATION
    return not never and (public or allow_private)


def _inner(address: IPv4Address | IPv6Address) -> tuple[IPv4Address, ...]:
    if isinstance(address, IPv4Address):
        return ()
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.teredo:
        return address.teredo
    carried = address.ipv4_mapped or address.sixtofour
    return (carried,) if carried else ()
