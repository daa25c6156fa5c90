"""Charts of figures with matplotlib: bars, curves, distributions; in GitHub's light and dark colours, and as SVG that
is the same from one time to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.report import Spread, number_text

WIDTH_INCHES = 8.0
BAR_INCHES = 0.42
FRAME_INCHES = 1.3
"""Of a bar chart's height: title, axis, and its label."""

SETTINGS: dict[Any, Any] = {
    # Glyphs as paths: looks the same everywhere. Element ids come from the salt, not from chance.
    "svg.fonttype": "path",
    "svg.hashsalt": "pulsar-sequencer",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}
# matplotlib would write today's date and its own version.
METADATA = {"Date": None, "Creator": None}


@dataclass(frozen=True)
class Theme:
    """Colours of one of GitHub's modes; `suffix` is that of the files' names."""

    suffix: str
    background: str
    text: str
    muted: str
    grid: str
    palette: tuple[str, ...]
    """The first is ours, the second that of the reference."""


LIGHT = Theme("", "#ffffff", "#1f2328", "#59636e", "#d1d9e0", ("#0969da", "#818b98", "#bc4c00", "#1a7f37", "#8250df"))
DARK = Theme(
    "-dark", "#0d1117", "#f0f6fc", "#9198a1", "#3d444d", ("#4493f8", "#767e89", "#db6d28", "#3fb950", "#ab7df8")
)


class Bar(NamedTuple):
    """One bar, with the range of its runs."""

    label: str
    figure: Spread
    colour: int = 0
    """Which one of the palette."""


class Curve(NamedTuple):
    """Medians over x, with the range of their runs."""

    label: str
    points: Sequence[tuple[float, Spread]]
    colour: int = 0
    style: str = "-"


Draw = Callable[[Theme], Figure]


def save(name: str, draw: Draw, directory: Path) -> list[Path]:
    """One chart in both modes. Returns the files."""
    files = []
    for theme in (LIGHT, DARK):
        with mpl.rc_context(SETTINGS | _colours(theme)):
            file = directory / f"{name}{theme.suffix}.svg"
            draw(theme).savefig(file, format="svg", metadata=METADATA, bbox_inches="tight", pad_inches=0.2)
        files.append(file)
    return files


def _colours(theme: Theme) -> dict[Any, Any]:
    colours: dict[Any, Any] = dict.fromkeys(
        ("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.background
    )
    colours |= dict.fromkeys(("text.color", "axes.titlecolor", "legend.labelcolor"), theme.text)
    colours |= dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), theme.muted)
    return colours | {"axes.edgecolor": theme.grid, "grid.color": theme.grid}


def bars(title: str, unit: str, rows: Sequence[Bar]) -> Draw:
    """Lying bars, the first one on top; their ends say the medians, the whiskers reach from min to max."""

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + BAR_INCHES * len(rows)))
        axes = figure.add_subplot(title=title, xlabel=unit)
        medians = [row.figure["median"] for row in rows]
        # Never below zero: the median is rounded, the values are not.
        below = [max(0, row.figure["median"] - row.figure["min"]) for row in rows]
        above = [max(0, row.figure["max"] - row.figure["median"]) for row in rows]
        axes.barh(
            range(len(rows)),
            medians,
            xerr=(below, above),
            height=0.62,
            color=[theme.palette[row.colour] for row in rows],
            error_kw={"ecolor": theme.text, "elinewidth": 1, "capsize": 3},
        )
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=theme.text)
        axes.invert_yaxis()
        for at, row in enumerate(rows):
            place = (row.figure["max"], at)
            text = number_text(row.figure["median"])
            axes.annotate(text, place, (6, 0), textcoords="offset points", va="center", color=theme.text)
        axes.margins(x=0.14, y=0.02)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.grid(axis="x", linewidth=0.6)
        return figure

    return draw


def curves(title: str, x_label: str, panels: Mapping[str, Sequence[Curve]], *, log_y: bool = False) -> Draw:
    """Panels on one logarithmic x axis, each named by what its y axis shows; bands reach from min to max."""

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH_INCHES, 1.4 + (3.4 if len(panels) == 1 else 2.0 * len(panels))), layout="tight")
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (y_label, lines) in zip(stacked, panels.items(), strict=True):
            _panel(axes, theme, y_label, lines, log_y)
        stacked[0].set_title(title)
        stacked[-1].set_xlabel(x_label)
        labelled = {line.get_label(): line for axes in stacked for line in axes.get_lines()}
        stacked[0].legend(handles=list(labelled.values()), loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure

    return draw


def _panel(axes: Axes, theme: Theme, y_label: str, lines: Sequence[Curve], log_y: bool) -> None:
    for line in lines:
        points = sorted(line.points, key=lambda point: point[0])
        x = [at for at, _ in points]
        colour = theme.palette[line.colour]
        axes.plot(x, [found["median"] for _, found in points], line.style, marker="o", color=colour, label=line.label)
        lowest, highest = [found["min"] for _, found in points], [found["max"] for _, found in points]
        axes.fill_between(x, lowest, highest, color=colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.set_ylabel(y_label)
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.grid(linewidth=0.6)


def distribution(title: str, unit: str, share_of: str, values: Mapping[str, Sequence[float]]) -> Draw:
    """For each label which share of the values stays below x."""

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH_INCHES, 4.0))
        axes = figure.add_subplot(title=title, xlabel=unit, ylabel=share_of)
        for colour, (label, found) in zip(theme.palette, values.items(), strict=False):
            axes.ecdf(found, color=colour, label=label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.grid(linewidth=0.6)
        axes.legend(loc="lower right")
        return figure

    return draw


def _thousands(value: float, _: object) -> str:
    """ "250", "1 k", "1.5 M", "0.2" """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
