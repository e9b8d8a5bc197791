"""Before the first request: do the resolver, the network and the proxy work at all?

If they do not, every URL would fail, most of them for reasons that are never tried again.
"""

import errno
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pycurl

from clipkit.errors import NetworkError
from clipkit.ingest.addresses import is_allowed
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.failures import curl_reason
from clipkit.ingest.resolve import Resolve, system_resolve
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.transfer import authorities
from clipkit.ingest.urls import Target, request_target

HOSTS = 10
HOSTS_THAT_TELL = 5  # fewer may well be down by themselves
CONTROL = "example.com"  # a name that is always there (RFC 2606)
# libcurl's numbers, for which pycurl has no names.
_WHO_ASKS = (12, 33)  # CURLPX_NO_AUTH, CURLPX_USER_REJECTED
_NO_SOCKS = (2, 14, 15)  # CURLPX_BAD_VERSION, CURLPX_RECV_AUTH, CURLPX_RECV_CONNECT: not what SOCKS says
_NO_NETWORK = {errno.ENETUNREACH, errno.ENETDOWN}

Connect = Callable[[str, int, float], None]
"""Open a connection to (address, port) within so many seconds, and close it; raises OSError."""


def _connect(address: str, port: int, seconds: float) -> None:
    socket.create_connection((address, port), timeout=seconds).close()


def preflight(
    rows: Iterable[UrlRow],
    config: IngestConfig,
    resolve: Resolve = system_resolve,
    connect: Connect = _connect,
) -> None:
    """Try the first few hosts of `rows`, or the proxy; one that works is enough.

    Raises NetworkError if none of the names, nor one that is always there, can be resolved, if there is no
    network, if none of at least HOSTS_THAT_TELL hosts answers at all, or if the proxy cannot be reached or
    wants to know who asks.
    """
    targets = list(_targets(rows))
    if config.proxy:
        _try_proxy(config.proxy, config.timeout, connect)
        for scheme in sorted({target.url.partition("://")[0] for target in targets}):
            _ask_proxy(config.proxy, scheme, config)
        return
    hosts: dict[str, int] = {}
    for target in targets:
        if len(hosts) < HOSTS:
            hosts.setdefault(target.host.strip("[]"), target.port)
    found: Counter[str] = Counter()
    tried: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work(host: str, port: int) -> None:
        outcome = "not tried"
        try:
            outcome = _try_host(host, port, config, resolve, connect)
        finally:
            tried.put(outcome)

    for host in hosts.items():
        # Daemons: one that a silent name server keeps waiting keeps no finished command from ending.
        threading.Thread(target=work, args=host, daemon=True, name="preflight").start()
    for _ in hosts:
        found[tried.get()] += 1
        if found["reached"]:
            return
    _judge(found, list(hosts), resolve)


def is_reachable(target: Target, config: IngestConfig, resolve: Resolve = system_resolve) -> bool:
    """Tell whether the target's host, or the proxy, can be connected to, or refuses that."""
    if not config.proxy:
        host = target.host.strip("[]")
        return _try_host(host, target.port, config, resolve, _connect) == "reached"
    try:
        _try_proxy(config.proxy, config.timeout, _connect)
    except NetworkError:
        return False
    return True


def _judge(found: Counter[str], hosts: list[str], resolve: Resolve) -> None:
    count = f"first {len(hosts)} hosts" if len(hosts) > 1 else "only host"
    which = f"the {count} ({', '.join(hosts[:3])}{', …' if len(hosts) > 3 else ''})"
    again = "nothing was marked as failed: mend it and run the same command again"
    if hosts and found["unresolved"] == len(hosts) and _is_unknown(CONTROL, resolve):
        raise NetworkError(
            f"expected a working name resolver, found that neither {which} nor {CONTROL} resolve; {again}"
        )
    if found["no network"] and found["no network"] + found["unresolved"] == len(hosts):
        raise NetworkError(f"expected a network, found no way from here to {which}; {again}")
    if found["silent"] >= HOSTS_THAT_TELL:
        raise NetworkError(
            f"expected answers, found that none of {which} takes a connection; "
            f"does a firewall want --proxy? {again}"
        )


def _targets(rows: Iterable[UrlRow]) -> Iterator[Target]:
    for row in rows:
        target = None if row.problem or row.file else request_target(row.url)
        if isinstance(target, Target):
            yield target


def _try_host(host: str, port: int, config: IngestConfig, resolve: Resolve, connect: Connect) -> str:
    try:
        addresses = resolve(host)
    except (OSError, UnicodeError):
        return "unresolved"
    one_a_family = {
        ":" in address: address
        for address in reversed(addresses)
        if is_allowed(address, allow_private=config.allow_private_hosts)
    }
    outcome = "not tried"
    for address in one_a_family.values():
        try:
            connect(address, port, config.timeout)
        except TimeoutError:
            outcome = "silent"
        except OSError as error:
            if error.errno not in _NO_NETWORK:
                return "reached"  # by a refusal, say: the network works
            outcome = "no network" if outcome == "not tried" else outcome
        else:
            return "reached"
    return outcome


def _try_proxy(proxy: str, timeout: float, connect: Connect) -> None:
    parts = urlsplit(proxy)
    assert parts.hostname and parts.port is not None  # as the settings have it
    try:
        connect(parts.hostname, parts.port, timeout)
    except OSError as error:
        raise NetworkError(
            f"expected a proxy at {parts.hostname}:{parts.port}, found that it cannot be reached "
            f"({error.strerror or error}); nothing was marked as failed: check --proxy and run the same again"
        ) from None


def _ask_proxy(proxy: str, scheme: str, config: IngestConfig) -> None:
    curl = pycurl.Curl()
    for option, value in {
        pycurl.URL: f"{scheme}://{CONTROL}/",  # for https by a tunnel, which may have rules of its own
        pycurl.PROXY: proxy,
        pycurl.NOPROXY: "",
        pycurl.WRITEFUNCTION: lambda _: 0,  # the status is all that is wanted
        pycurl.NOSIGNAL: 1,
        pycurl.TIMEOUT_MS: int(1000 * config.timeout),
        pycurl.USERAGENT: config.user_agent,
        **authorities(),
    }.items():
        curl.setopt(option, value)
    code, message = 0, ""
    with closing(curl):
        try:
            curl.perform()
        except pycurl.error as error:
            code, message = error.args
        statuses = curl.getinfo(pycurl.RESPONSE_CODE), curl.getinfo(pycurl.HTTP_CONNECTCODE)
        socks = curl.getinfo(pycurl.PROXY_ERROR)
    parts = urlsplit(proxy)
    if 407 in statuses or socks in _WHO_ASKS:
        told = " (HTTP 407)" if 407 in statuses else ""
        found = f"that it wants a name and a password, or others{told}"
        mend = f"give --proxy {parts.scheme}://NAME:PASSWORD@HOST:PORT"
    elif socks in _NO_SOCKS or (parts.scheme == "https" and not any(statuses) and _is_tls(code, message)):
        found, mend = message, "check --proxy"
    else:
        return  # any other trouble may be that of this host
    raise NetworkError(
        f"expected a proxy that lets us through at {parts.hostname}:{parts.port}, found {found}; nothing was "
        f"marked as failed: {mend} and run the same again"
    )


def _is_tls(code: int, message: str) -> bool:
    return curl_reason(code, message, received=False) == "tls"


def _is_unknown(host: str, resolve: Resolve) -> bool:
    try:
        return not resolve(host)
    except OSError:
        return True
