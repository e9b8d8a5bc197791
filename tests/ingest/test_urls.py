import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.rows import Failed
from clipkit.ingest.urls import MAX_URL_BYTES, Target, request_target


@pytest.mark.parametrize(
    ("url", "requested", "host"),
    [
        ("http://example.com/a.jpg", "http://example.com/a.jpg", "example.com"),
        ("HTTPS://Example.COM/A.JPG", "https://example.com/A.JPG", "example.com"),
        ("http://example.com", "http://example.com/", "example.com"),
        ("http://example.com:8080?x=1#part", "http://example.com:8080/?x=1", "example.com"),
        ("http://example.com/a b.jpg?q=é|", "http://example.com/a%20b.jpg?q=%C3%A9%7C", "example.com"),
        ("http://example.com/a%20b", "http://example.com/a%20b", "example.com"),
        ("http://example.com//a//b", "http://example.com//a//b", "example.com"),
        ("http://münchen.de/ü", "http://xn--mnchen-3ya.de/%C3%BC", "xn--mnchen-3ya.de"),
        ("http://faß.de/", "http://xn--fa-hia.de/", "xn--fa-hia.de"),  # IDNA 2003 has another host: fass.de
        ("http://foo_bar.BÜCHER。de/", "http://foo_bar.xn--bcher-kva.de/", "foo_bar.xn--bcher-kva.de"),
        ("http://😀.example/", "http://xn--e28h.example/", "xn--e28h.example"),
        ("http://me:pw@example.com/", "http://me:pw@example.com/", "example.com"),
        ("http://[::1]:80/x", "http://[::1]:80/x", "[::1]"),
    ],
)
def test_urls_of_lists_become_requests(url: str, requested: str, host: str) -> None:
    target = request_target(url)
    assert isinstance(target, Target) and (target.url, target.host) == (requested, host)
    assert target.port == {"https": 443}.get(requested.partition(":")[0], 8080 if "8080" in url else 80)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "javascript:alert(1)", "data:image/png,x"]
)
def test_other_schemes_are_named(url: str) -> None:
    outcome = request_target(url)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "scheme"


@pytest.mark.parametrize(
    "url",
    ["", "nothing", "//host/path", "http://", "http:///path", "http://[::1", "http://a:99999/", "http://a b/",
     "http://a\x00b/", "http://a/\r\nHost: b", "http://a/\ud800", "http://%31/",
     "http://ü⒈de/", f"http://{'ü' * 300}/",
     "http://a/" + "x" * MAX_URL_BYTES],
)  # fmt: skip
def test_what_is_no_url_is_a_bad_url(url: str) -> None:
    outcome = request_target(url)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "bad_url"


@given(st.text(), st.sampled_from(["http://", "https://", "http://a/", "http://a:", "http://[", ""]))
def test_any_text_gives_an_ascii_target_or_a_reason(text: str, before: str) -> None:
    outcome = request_target(before + text)
    if isinstance(outcome, Target):
        assert outcome.url.isascii()
        assert outcome.url.isprintable()
        assert " " not in outcome.url
        assert outcome.url.startswith(("http://", "https://"))
