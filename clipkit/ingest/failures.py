"""From what libcurl and servers report to the closed set of reasons."""

import re

import pycurl

_E_PROXY = 97  # libcurl's number; pycurl has no name for it

_CURL_REASONS = {
    pycurl.E_URL_MALFORMAT: "bad_url",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns_failed",
    pycurl.E_COULDNT_RESOLVE_PROXY: "connect",
    pycurl.E_COULDNT_CONNECT: "connect",
    _E_PROXY: "connect",
    pycurl.E_INTERFACE_FAILED: "connect",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_SSL_CERTPROBLEM: "tls",
    pycurl.E_SSL_CIPHER: "tls",
    pycurl.E_SSL_CACERT_BADFILE: "tls",
    pycurl.E_SSL_ISSUER_ERROR: "tls",
    pycurl.E_SSL_INVALIDCERTSTATUS: "tls",
    pycurl.E_FILESIZE_EXCEEDED: "too_large",
    pycurl.E_PARTIAL_FILE: "truncated",
    pycurl.E_GOT_NOTHING: "reset",
    pycurl.E_RECV_ERROR: "reset",
    pycurl.E_SEND_ERROR: "reset",
}
"""Every other error of libcurl's is `protocol`: the answer was not HTTP as we speak it."""

UNANNOUNCED_END = "unexpected eof"
"""What libcurl says of a TLS connection that ends without a close_notify."""

_BROKEN_OFF = re.compile(rf"(Recv|Send) failure|{UNANNOUNCED_END}|SSL_ERROR_SYSCALL|reason\(0\)")


def curl_reason(code: int, message: str, *, received: bool) -> str:
    """Return the reason for libcurl's error `code`; `received` says whether some of the body had come."""
    if "CONNECT tunnel failed" in message:
        return "connect"
    if code == pycurl.E_RECV_ERROR and ("HTTP/" in message or "chunk" in message):
        return "protocol"  # a version, or a framing, that we do not speak
    if code == pycurl.E_SSL_CONNECT_ERROR and _BROKEN_OFF.search(message):
        return "reset"  # in the middle of the handshake, about which nothing was said
    if " alert " in message and not received:  # TLS 1.3 may refuse us when for us the handshake has ended
        return "tls"
    if received and UNANNOUNCED_END in message:
        return "truncated"
    if code == pycurl.E_OPERATION_TIMEDOUT and received and "too slow" in message:
        return "too_slow"
    return _CURL_REASONS.get(code, "protocol")


def status_reason(status: int) -> str | None:
    """Return the reason for a final HTTP status, None if it is a success."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return "redirects"  # one without a Location that could be followed
    if status == 407:
        return "connect"  # a proxy that wants to know who asks: the server was not reached
    if status == 408:
        return "timeout"
    if status == 429:
        return "rate_limited"
    if 400 <= status < 500:
        return "http_4xx"
    return "http_5xx" if status >= 500 else "protocol"
