"""How every plot of the project looks, and how a picture is written."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from clipkit.atomic import replaced
from clipkit.errors import EvaluationError

Dashes: TypeAlias = Literal["-", "--", "-.", ":"]

PICTURE_SUFFIXES = (".png", ".svg")
GREY = "0.35"
LONGEST_TITLE = 72
TITLE_SIZE, LABEL_SIZE, TICK_SIZE, NOTE_SIZE = 10, 9, 8, 7
_DOTS_PER_INCH = 200
_LONGEST_LABEL = 41
_HALF_A_LINE = 42
_MOST_NOTES = 5
# Okabe and Ito's colours: told apart in print and by colour-blind eyes. Dashes go on where they end.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "p", "h")  # none that published models have


def colour(number: int) -> str:
    """The colour of the run `number`."""
    return _COLOURS[number % len(_COLOURS)]


def dashes(number: int) -> Dashes:
    """The line of the run `number`: another one where the colours begin anew."""
    return _DASHES[number // len(_COLOURS) % len(_DASHES)]


def marker(number: int) -> str:
    """The marker of the run `number`; 7 colours and 10 markers together repeat after 70 runs."""
    return _MARKERS[number % len(_MARKERS)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which makes room for what is drawn."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """Give a panel the grid, the ticks' size and the open frame that all panels have."""
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int) -> None:
    """Put a legend under the panels; labels are shown as they are, whatever signs stand in them."""
    # Matplotlib drops a label with an underscore in front.
    shown = [f"\N{ZERO WIDTH SPACE}{label}" if label.startswith("_") else label for label in labels]
    legend = figure.legend(
        handles, shown, loc="outside lower center", ncols=columns, frameon=False, fontsize=LABEL_SIZE
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_columns(labels: Sequence[str]) -> int:
    """How many columns of a legend hold these labels under a panel."""
    return 2 if max(map(len, labels), default=0) <= _HALF_A_LINE else 1


def shortened(label: str, longest: int = _LONGEST_LABEL) -> str:
    """A label with its middle left out where it is too long, for a legend if nothing else is said."""
    if len(label) <= longest:
        return label
    half = (longest - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def note(
    axes: Axes, text: str, xy: tuple[float, float], offset: tuple[float, float], **settings: Any
) -> Text:
    """Write small grey text `offset` points from `xy`, in data unless `xycoords` says otherwise."""
    settings = {"xycoords": "data", "fontsize": NOTE_SIZE, "color": GREY, **settings}
    annotation = axes.annotate(text, xy, offset, textcoords="offset points", **settings)
    annotation.set_parse_math(False)
    return annotation


def draw_chance(axes: Axes, value: float, text: str) -> None:
    """Draw what guessing scores: a dotted grey line with its text at the right end."""
    axes.axhline(value, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2)
    place = ("axes fraction", "data")
    note(axes, text, (1, value), (-2, 2), xycoords=place, ha="right", va="bottom")


def check_picture(out: Path) -> None:
    """Raise EvaluationError unless `out` is named as a picture, and is new or a picture."""
    if out.suffix.lower() not in PICTURE_SUFFIXES:
        raise EvaluationError(f"{out}: expected a name that ends in {' or '.join(PICTURE_SUFFIXES)}")
    if not out.exists():
        return
    start = b""
    if out.is_file():
        with out.open("rb") as stream:
            start = stream.read(2000)
    if not start.startswith(b"\x89PNG") and b"<svg" not in start:
        raise EvaluationError(
            f"{out}: expected a new name, or a picture to replace, found something else there; "
            "give the plot another name"
        )


def write_picture(figure: Figure, out: Path) -> None:
    """Write PNG (200 dots an inch) or SVG by the name of `out`, whole or not at all; its folder is made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced(out) as temporary, warnings.catch_warnings():
        # Of scripts that the font lacks boxes are drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format=out.suffix.lower()[1:], dpi=_DOTS_PER_INCH)


def quoted(notes: Sequence[str]) -> str:
    """Return the reasons why there is nothing to draw, for the end of a line that says so."""
    shown = "; ".join(notes[:_MOST_NOTES])
    more = f"; and {len(notes) - _MOST_NOTES} more" if len(notes) > _MOST_NOTES else ""
    return f" ({shown}{more})" if notes else ""
