"""The report as one HTML page that needs nothing else."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clipkit.page import document, figure, text
from clipkit.shards.origin import made_from
from clipkit.shards.schemas import REASONS
from clipkit.tables import size

if TYPE_CHECKING:
    from clipkit.shards.dataset import Parent, Pass
    from clipkit.shards.report import Report

SHORT_SIDES = (0, 64, 128, 256, 512, 1024, 2048)
CAPTION_LENGTHS = (0, 1, 20, 40, 60, 80, 100, 150, 300)
_HOSTS = 15
_FILES = 20


def render(report: "Report") -> str:
    """Return the page."""
    body = "\n".join(
        (
            _head(report),
            _table_of_reasons(report),
            _table_of_left_out(report.description.parent),
            '<div class="columns">',
            _bars("Short side as served, px", _ranges(report.short_sides, SHORT_SIDES)),
            _bars("Caption length, characters", _ranges(report.caption_lengths, CAPTION_LENGTHS)),
            _bars("Format as served", report.formats.most_common()),
            _hosts(report),
            "</div>",
            _pictures(report),
            _examples(report),
            _origin(report),
        )
    )
    return document(f"{text(report.name)}: report", body)


def _head(report: "Report") -> str:
    parent = report.description.parent
    if parent is None:
        records, others = report.samples + report.failures, report.failures
        words, of_all, rest = (
            "Every record of the source is a sample or a failure.",
            "source records",
            "failures",
        )
    else:
        records, others = parent.samples, sum(parent.left_out.values())
        words, of_all, rest = (
            f"Every sample of {text(parent.name)} is here or left out.",
            "in the original",
            "left out",
        )
    figures = (
        (f"{records:,}", of_all),
        (f"{report.samples:,}", f"samples ({_percent(report.samples, records)})"),
        (f"{others:,}", f"{rest} ({_percent(others, records)})"),
        (f"{report.shards:,}", "shards"),
        (size(report.bytes), "in tars"),
        (f"{report.repeated:,}", "pictures seen before"),
    )
    cells = "".join(f"<div><b>{value}</b><span class=soft>{label}</span></div>" for value, label in figures)
    sampled = (
        "<p class=soft>The figures below are of an even sample of the files.</p>" if report.sampled else ""
    )
    split = _bar(report.samples, records, "good") + _bar(others, records, "bad")
    return (
        f"<h1>{text(report.name)}</h1><p class=soft>{words}</p>"
        f'<div class="figures">{cells}</div><div class="split">{split}</div>{sampled}'
    )


def _table_of_reasons(report: "Report") -> str:
    if not report.reasons:
        return ""
    most = max(report.reasons.values())
    rows = "".join(
        f"<tr><td class=reason><code>{text(reason)}</code></td><td class=n>{count:,}</td>"
        f"<td class=bar><div>{_bar(count, most, 'bad')}</div></td>"
        f"<td class='soft hint'>{'may pass' if REASONS.get(reason) else ''}</td></tr>"
        for reason, count in report.reasons.most_common()
    )
    return f"<h2>Why URLs gave no sample</h2><table>{rows}</table>"


def _table_of_left_out(parent: "Parent | None") -> str:
    if parent is None or not any(parent.left_out.values()):
        return ""
    most = max(parent.left_out.values())
    rows = "".join(
        f"<tr><td class=reason><code>{text(cause)}</code></td><td class=n>{count:,}</td>"
        f"<td class=bar><div>{_bar(count, most, 'bad')}</div></td></tr>"
        for cause, count in parent.left_out.items()
        if count
    )
    return f"<h2>Why samples were left out</h2><table>{rows}</table>"


def _bars(title: str, counts: list[tuple[str, int]]) -> str:
    most = max((count for _, count in counts), default=1)
    rows = "".join(
        f"<tr><td>{text(label)}</td><td class=n>{count:,}</td>"
        f"<td class=bar><div>{_bar(count, most)}</div></td></tr>"
        for label, count in counts
    )
    return f"<section><h2>{title}</h2><table>{rows}</table></section>"


def _hosts(report: "Report") -> str:
    hosts = report.hosts_ok + report.hosts_failed
    if not hosts:  # of pictures of this machine
        return ""
    most = max(hosts.values(), default=1)
    rows = "".join(
        f"<tr><td class=url><bdi>{text(host, 60)}</bdi></td><td class=n>{ok:,}</td>"
        f"<td class='n {'bad' if failed else ''}'>{failed:,}</td>"
        f"<td class=bar><div>{_bar(ok, most, 'good')}{_bar(failed, most, 'bad')}</div></td></tr>"
        for host, _ in hosts.most_common(_HOSTS)
        for ok, failed in [(report.hosts_ok[host], report.hosts_failed[host])]
    )
    head = "<tr><th>host</th><th class=n>samples</th><th class=n>failures</th><th></th></tr>"
    more = f"<p class=soft>and {len(hosts) - _HOSTS:,} more hosts</p>" if len(hosts) > _HOSTS else ""
    return f"<section><h2>Hosts</h2><table class=hosts>{head}{rows}</table>{more}</section>"


def _pictures(report: "Report") -> str:
    figures = "".join(
        figure(shown.jpeg, shown.caption, f"<span>{text(shown.key)}</span>") for shown in report.pictures
    )
    return f'<h2>Samples, spread evenly</h2><div class="grid">{figures}</div>' if figures else ""


def _examples(report: "Report") -> str:
    rows = "".join(
        f"<tr><td class=reason><code>{text(reason)}</code></td>"
        f"<td class=url><bdi>{text(url, 160)}</bdi></td>"
        f"<td class=soft><bdi>{text(detail, 120)}</bdi></td></tr>"
        for reason, url, detail in sorted(report.examples)
    )
    return f"<h2>Failures, the first of each cause</h2><table class=list>{rows}</table>" if rows else ""


def _origin(report: "Report") -> str:
    rows = "".join(
        f"<tr><td><bdi>{text(file.name)}</bdi></td><td class=n>{size(file.bytes)}</td>"
        f"<td><code>{text(file.sha256)}</code></td></tr>"
        for file in report.description.sources[:_FILES]
    )
    left = len(report.description.sources) - _FILES
    more = f"<p class=soft>and {left:,} more files</p>" if left > 0 else ""
    settings = ", ".join(f"{name} {value}" for name, value in report.description.image.items())
    passes = "".join(f"<p class=soft>{_pass(each)}</p>" for each in report.passes)
    parents = "".join(f"<p><bdi>{text(made_from(one), 400)}</bdi></p>" for one in _parents(report))
    files = f"<table class=list>{rows}</table>{more}"
    return f"<h2>Made from</h2>{parents}{files}{passes}<p class=soft>{text(settings)}</p>"


def _parents(report: "Report") -> "Iterator[Parent]":
    parent = report.description.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def _pass(one: "Pass") -> str:
    if one.kind == "retry":
        return f"then {one.records:,} failures tried again"
    return f"records {one.first:,} to {one.first + one.records - 1:,} of the list, counted from 0"


def _ranges(counts: Counter[int], lower_bounds: Sequence[int]) -> list[tuple[str, int]]:
    ranges = []
    for bound, above in zip(lower_bounds, (*lower_bounds[1:], None), strict=True):
        label = f"{bound:,} and more" if above is None else f"{bound:,}–{above - 1:,}"
        ranges.append((str(bound) if above == bound + 1 else label, counts[bound]))
    return ranges


def _bar(count: int, most: int, kind: str = "") -> str:
    return f'<i class="{kind}" style="width:{100 * count / most:.1f}%"></i>' if count else ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f}%"
