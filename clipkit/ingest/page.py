"""The report as one HTML page that needs nothing else: no scripts, no links, no request to anywhere.

Captions, URLs and server messages come from strangers: every text is escaped, cut, and isolated from the
page's writing direction; the page's own policy forbids what escaping might miss.
"""

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from clipkit.shards.schemas import REASONS

if TYPE_CHECKING:
    from clipkit.ingest.report import Report
    from clipkit.shards.dataset import Pass

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SHORT_SIDES = (0, 64, 128, 256, 512, 1024, 2048)
CAPTION_LENGTHS = (0, 1, 20, 40, 60, 80, 100, 150, 300)
_HOSTS = 15
_FILES = 20
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d2126; --soft: #69707a; --line: #e2dfd8;
  --good: #2f7d5b; --bad: #c4553b; --bar: #4a72a8; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e4df; --soft: #979da6;
  --line: #2c3138; --good: #5fb58c; --bad: #e08066; --bar: #7ba2d6; --card: #1c2026; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 44px 0 12px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
code, .url { font: 13px/1.45 ui-monospace, Consolas, monospace; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 12px 44px; margin: 28px 0 12px; }
.figures b { display: block; font-size: 30px; line-height: 1.15; font-variant-numeric: tabular-nums; }
.split { display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: var(--line); }
.split i, td.bar i { min-width: 3px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr));
  gap: 0 48px; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; }
td, th { padding: 4px 14px 4px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td.reason { white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.n.bad { color: var(--bad); }
td.bar { width: 46%; vertical-align: middle; padding-right: 0; } .hosts td.bar { width: 27%; }
td.bar div { display: flex; gap: 1px; }
td.bar i { height: 9px; background: var(--bar); border-radius: 2px; }
td.hint { padding-left: 14px; width: 12%; white-space: nowrap; }
.split i.good, td.bar i.good { background: var(--good); }
.split i.bad, td.bar i.bad { background: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  overflow: hidden; }
figure img { display: block; width: 100%; height: 148px; object-fit: contain; background: var(--line); }
figcaption { padding: 7px 9px 9px; font-size: 12.5px; line-height: 1.35; overflow-wrap: anywhere; }
figcaption bdi { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4;
  overflow: hidden; }
figcaption span { color: var(--soft); font-size: 11px; }
@media (max-width: 640px) {
  main { padding: 24px 16px 40px; }
  .figures { gap: 12px 28px; } .figures b { font-size: 24px; }
  .grid { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 10px; }
  .list tr { display: block; padding: 7px 0; border-bottom: 1px solid var(--line); }
  .list td { display: block; padding: 0; border: 0; text-align: left; }
}
"""


def render(report: "Report") -> str:
    """Return the page."""
    body = "\n".join(
        (
            _head(report),
            _table_of_reasons(report),
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
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(report.name)}: ingest report</title><style>{_STYLE}</style></head>
<body><main>
{body}
</main></body></html>
"""


def _head(report: "Report") -> str:
    records = report.samples + report.failures
    figures = (
        (f"{records:,}", "source records"),
        (f"{report.samples:,}", f"samples ({_percent(report.samples, records)})"),
        (f"{report.failures:,}", f"failures ({_percent(report.failures, records)})"),
        (f"{report.shards:,}", "shards"),
        (_bytes(report.bytes), "in tars"),
        (f"{report.repeated:,}", "pictures seen before"),
    )
    cells = "".join(f"<div><b>{value}</b><span class=soft>{label}</span></div>" for value, label in figures)
    sampled = (
        "<p class=soft>The figures below are of an even sample of the files.</p>" if report.sampled else ""
    )
    split = _bar(report.samples, records, "good") + _bar(report.failures, records, "bad")
    return (
        f"<h1>{_text(report.name)}</h1><p class=soft>Every record of the source is a sample or a failure.</p>"
        f'<div class="figures">{cells}</div><div class="split">{split}</div>{sampled}'
    )


def _table_of_reasons(report: "Report") -> str:
    if not report.reasons:
        return ""
    most = max(report.reasons.values())
    rows = "".join(
        f"<tr><td class=reason><code>{_text(reason)}</code></td><td class=n>{count:,}</td>"
        f"<td class=bar><div>{_bar(count, most, 'bad')}</div></td>"
        f"<td class='soft hint'>{'may pass' if REASONS.get(reason) else ''}</td></tr>"
        for reason, count in report.reasons.most_common()
    )
    return f"<h2>Why URLs gave no sample</h2><table>{rows}</table>"


def _bars(title: str, counts: list[tuple[str, int]]) -> str:
    most = max((count for _, count in counts), default=1)
    rows = "".join(
        f"<tr><td>{_text(label)}</td><td class=n>{count:,}</td>"
        f"<td class=bar><div>{_bar(count, most)}</div></td></tr>"
        for label, count in counts
    )
    return f"<section><h2>{title}</h2><table>{rows}</table></section>"


def _hosts(report: "Report") -> str:
    hosts = report.hosts_ok + report.hosts_failed
    most = max(hosts.values(), default=1)
    rows = "".join(
        f"<tr><td class=url><bdi>{_text(host, 60)}</bdi></td><td class=n>{ok:,}</td>"
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
        f'<figure><img alt="" src="data:image/jpeg;base64,{b64encode(shown.jpeg).decode()}"><figcaption>'
        f'<bdi dir="auto">{_text(shown.caption, 240)}</bdi><span>{shown.key}</span></figcaption></figure>'
        for shown in report.pictures
    )
    return f'<h2>Samples, spread evenly</h2><div class="grid">{figures}</div>' if figures else ""


def _examples(report: "Report") -> str:
    rows = "".join(
        f"<tr><td class=reason><code>{_text(reason)}</code></td>"
        f"<td class=url><bdi>{_text(url, 160)}</bdi></td>"
        f"<td class=soft><bdi>{_text(detail, 120)}</bdi></td></tr>"
        for reason, url, detail in sorted(report.examples)
    )
    return f"<h2>Failures, the first of each cause</h2><table class=list>{rows}</table>" if rows else ""


def _origin(report: "Report") -> str:
    rows = "".join(
        f"<tr><td><bdi>{_text(file.name)}</bdi></td><td class=n>{_bytes(file.bytes)}</td>"
        f"<td><code>{file.sha256}</code></td></tr>"
        for file in report.description.sources[:_FILES]
    )
    left = len(report.description.sources) - _FILES
    more = f"<p class=soft>and {left:,} more files</p>" if left > 0 else ""
    settings = ", ".join(f"{name} {value}" for name, value in report.description.image.items())
    passes = "".join(f"<p class=soft>{_pass(each)}</p>" for each in report.passes)
    return (
        f"<h2>Made from</h2><table class=list>{rows}</table>{more}{passes}<p class=soft>{_text(settings)}</p>"
    )


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


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _text(text: str, length: int = 200) -> str:
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[: length + 1])
    return escape(text if len(text) <= length else text[: length - 1] + "…")
