from datetime import UTC, datetime

import pytest

from clipkit.ingest.robots import opts_out, retry_after


@pytest.mark.parametrize(
    "header",
    ["noai", "noimageai", "NoIndex", "noimageindex", "none", "nofollow, noai", "googlebot: noindex",
     "unavailable_after: 25 Jun 2030 15:00:00 PST, noimageai", "noai;noarchive",
     "otherbot:noai", "a: nofollow, b: NoImageAI", '"noai"', "noai=1", "noai\N{FULLWIDTH COMMA} nofollow",
     "n\xa0o", "no\0"],
)  # fmt: skip
def test_opting_out_is_honoured(header: str) -> None:
    assert opts_out(header)


@pytest.mark.parametrize(
    "header", ["", "all", "nofollow", "noarchive", "max-image-preview:large", "no-ai-index"]
)
def test_other_directives_do_not_opt_out(header: str) -> None:
    assert not opts_out(header)


def test_retry_after_takes_both_of_its_forms() -> None:
    now = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after("120") == 120
    assert retry_after(" Tue, 01 Jan 2030 12:00:30 GMT ", now) == 30
    assert retry_after("Tue, 01 Jan 2030 11:00:00 GMT", now) == 0
    assert retry_after("soon") is None
    assert retry_after("-1") is None
    assert retry_after("9" * 5000) == 999_999_999
