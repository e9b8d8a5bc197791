"""Self-contained HTML pages: no scripts, no links, no request to anywhere; for phones and desks, dark or not.

What a page shows comes from strangers: every text is escaped, cut, and freed of what steers its
direction; the page's own policy forbids what escaping might miss.
"""

import re
from base64 import b64encode
from html import escape

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"

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
.wide { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); margin-top: 28px; }
.wide figure img { height: 240px; } .wide span { display: block; } .wide .bad { color: var(--bad); }
.wide figcaption bdi { -webkit-line-clamp: 8; } .wide .url { font-size: 11px; }
.wide .url bdi { display: inline; }
@media (max-width: 640px) {
  main { padding: 24px 16px 40px; }
  .figures { gap: 12px 28px; } .figures b { font-size: 24px; }
  .grid:not(.wide) { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 10px; }
  .list tr { display: block; padding: 7px 0; border-bottom: 1px solid var(--line); }
  .list td { display: block; padding: 0; border: 0; text-align: left; }
}
"""


def document(title: str, body: str) -> str:
    """Return the page of a `title` and a `body`, both of them markup already."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head>
<body><main>
{body}
</main></body></html>
"""


def text(content: str, length: int = 200) -> str:
    """Return a text as markup that shows it, cut to `length` characters, without control characters.

    What is no UTF-8 in the name of a file becomes U+FFFD too."""
    shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", content[: length + 1])
    return escape(shown if len(shown) <= length else shown[: length - 1] + "…")


def figure(jpeg: bytes | None, caption: str, note: str, length: int = 240) -> str:
    """Return a picture of JPEG bytes, if there is one, with its caption and a note, which is markup."""
    image = f'<img alt="" src="data:image/jpeg;base64,{b64encode(jpeg).decode()}">' if jpeg else ""
    bdi = f'<bdi dir="auto">{text(caption, length)}</bdi>'
    return f"<figure>{image}<figcaption>{bdi}{note}</figcaption></figure>"
