"""How the plots look: one palette that colour-blind readers can tell apart, few lines, labels beside the curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from fastslow.runs.files import write_bytes

INK, MUTED, FAINT = "#1f2933", "#6b7785", "#dfe4ea"
METHOD_COLOURS = {"fst": "#0072B2", "rl": "#D55E00", "gepa": "#009E73", "fst-distill": "#CC79A7"}
SPARE_COLOURS = ("#56B4E9", "#E69F00", "#7A5195", "#8C6D31", "#4D4D4D")  # Okabe and Ito's palette, and three more
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
MEASURE = 7.8  # inches wide: at DPI, twice the pixels of a README column
DPI = 220

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": MUTED,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Applies to figures made and saved inside; the caller's own matplotlib settings stay as they are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def save(figure: Figure, out: Path) -> Path:
    """Write the figure, all or nothing; the suffix (.png, .svg, .pdf) decides the format."""
    buffer, form = BytesIO(), out.suffix.lstrip(".").lower() or "png"
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    write_bytes(out, buffer.getvalue())
    return out


def colours(methods: Sequence[str]) -> list[str]:
    """A colour per arm: the first arm of a method has the method's own, further ones take spare colours."""
    spare, taken, found = iter([*SPARE_COLOURS] * len(methods)), set(), []
    for method in methods:
        own = METHOD_COLOURS.get(method)
        found.append(own if own and own not in taken else next(spare))
        taken.add(found[-1])
    return found


def percent_axis(axes: Axes, top: float = 1.0) -> None:
    axes.set_ylim(0, top * 1.04)
    axes.yaxis.set_major_locator(MultipleLocator(0.2 if top > 0.5 else top / 4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}%")


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least ``gap``, keeping their order, near where they were and between the limits.

    >>> [round(h, 2) for h in spread([0.5, 0.5, 0.9], 0.1, 0.0, 1.0)]
    [0.45, 0.55, 0.9]
    """
    blocks: list[tuple[float, list[int]]] = []  # (centre, labels of a block that touch one another), lowest first

    def centre_of(members: list[int]) -> float:
        half = gap * (len(members) - 1) / 2
        return min(max(fmean(heights[i] for i in members), low + half), high - half)

    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        members = [index]
        while blocks and centre_of(members) - blocks[-1][0] < gap * (len(members) + len(blocks[-1][1])) / 2:
            members = blocks.pop()[1] + members
        blocks.append((centre_of(members), members))
    placed = [0.0] * len(heights)
    for centre, members in blocks:
        for rank, index in enumerate(members):
            placed[index] = centre + gap * (rank - (len(members) - 1) / 2)
    return placed
