"""The report's plots, as SVG bytes: matplotlib without its global state, one call per picture.

Every picture is drawn twice, for a light and for a dark page, on a transparent ground. Panels are
small and separate, so that a phone shows them one under the other at full width.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from launch.report_blocks import Picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

PANEL_INCHES = (3.4, 2.1)
# The loss axis is drawn for what comes after this share (a tenth) of the steps.
_WARM_UP_SHARE = 10
FOREST_WIDTH = 5.2


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours for one ground."""

    text: str
    grid: str
    model: str
    baseline: str
    untrained: str
    raw: str


LIGHT = Ink("#1d2129", "#d9dde3", "#1f5fa8", "#c2541b", "#7b8494", "#a9c5e6")
DARK = Ink("#e4e7ec", "#333a44", "#7fb4f0", "#ff9d66", "#9aa4b2", "#3b5f8a")


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss over steps: what was logged and, where there is one, the evaluation's."""

    title: str
    steps: Sequence[int]
    losses: Sequence[float]
    weights: Sequence[float]
    eval_steps: Sequence[int] = ()
    eval_losses: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A task's metric with its interval and what it is compared with."""

    label: str
    value: float
    low: float
    high: float
    baseline_value: float
    untrained_value: float
    best_value: float


@dataclass(frozen=True, slots=True)
class MetricCurve:
    """A task's metric at several values of x; NaN where it is undefined."""

    title: str
    metric: str
    x_label: str
    scale: str
    """`linear`, `log` or `names`"""
    xs: Sequence[float]
    names: Sequence[str]
    """of the values of x; empty: they are numbers"""
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    baselines: Sequence[float]


def smooth(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Weighted moving average over about a tenth of the curve, centred; nothing is shifted."""
    value_S = np.asarray(values, dtype=np.float64)
    weight_S = np.asarray(weights, dtype=np.float64)
    half = max(1, len(value_S) // 20)
    averages = []
    for index in range(len(value_S)):
        window = slice(max(0, index - half), index + half + 1)
        total = float(weight_S[window].sum())
        if total > 0:
            averages.append(float((value_S[window] * weight_S[window]).sum()) / total)
        else:
            averages.append(float(value_S[index]))
    return averages


def loss_picture(curve: Curve) -> Picture:
    """Loss over steps: logged values pale, their moving average strong, evaluation as dots."""

    def draw(axes: Axes, ink: Ink) -> None:
        axes.plot(curve.steps, curve.losses, color=ink.raw, linewidth=0.8)
        axes.plot(curve.steps, smooth(curve.losses, curve.weights), color=ink.model, linewidth=1.8)
        if curve.eval_steps:
            axes.plot(
                curve.eval_steps, curve.eval_losses, "o", color=ink.baseline, markersize=4, zorder=3
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.margins(x=0.01)
        top = _top(curve)
        if top is not None:
            axes.set_ylim(top=top)

    first, last = curve.losses[0], smooth(curve.losses, curve.weights)[-1]
    alt = f"Loss of {curve.title}: {first:.3f} at step {curve.steps[0]}, {last:.3f} at the end."
    return _picture(curve.title, alt, PANEL_INCHES, draw)


def _top(curve: Curve) -> float | None:
    """Where to cut the loss axis: the first steps fall so far that they would flatten the rest."""
    settled = curve.losses[len(curve.losses) // _WARM_UP_SHARE :]
    if not settled or max(curve.losses) <= max(settled):
        return None
    shown = [*settled, *curve.eval_losses]
    return max(shown) + 0.1 * (max(shown) - min(shown)) + 1e-3


def forest_picture(title: str, caption: str, rows: Sequence[ForestRow]) -> Picture:
    """Tasks under each other: the model's value with its interval, and what it must beat."""

    def draw(axes: Axes, ink: Ink) -> None:
        y_R = np.arange(len(rows))[::-1]
        for y, row in zip(y_R, rows, strict=True):
            axes.plot([row.low, row.high], [y, y], color=ink.model, linewidth=2.2, zorder=2)
        value_R = [row.value for row in rows]
        axes.plot(value_R, y_R, "o", color=ink.model, markersize=6, label="this run", zorder=4)
        series = (
            ("trivial", [row.baseline_value for row in rows], "|", ink.baseline),
            ("best baseline", [row.best_value for row in rows], "D", ink.baseline),
            ("untrained", [row.untrained_value for row in rows], "x", ink.untrained),
        )
        for label, values, marker, colour in series:
            if np.isfinite(values).any():
                size = 12 if marker == "|" else 5
                axes.plot(
                    values, y_R, marker, color=colour, markersize=size, label=label,
                    markeredgewidth=1.8, fillstyle="none", zorder=3,
                )  # fmt: skip
        axes.set_yticks(y_R, [row.label for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(caption)
        axes.margins(x=0.06)
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, frameon=False, fontsize=8,
            handletextpad=0.3, columnspacing=1.0, borderaxespad=0.1,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_color(ink.text)

    values = "; ".join(f"{row.label} {row.value:.3f}".replace("\n", " ") for row in rows)
    size = (FOREST_WIDTH, 0.95 + 0.42 * len(rows))
    return _picture(title, f"{values}.", size, draw)


def curve_picture(curve: MetricCurve) -> Picture:
    """A metric over x: the model with the interval over users as a band, the best baseline."""
    # A log axis has no zero: counts stand at log(1 + x), with their own values as ticks.
    logarithmic = curve.scale == "log"
    x_P = np.asarray(curve.xs, dtype=np.float64)
    at_P = np.log1p(x_P) if logarithmic else np.arange(len(x_P)) if curve.names else x_P

    def draw(axes: Axes, ink: Ink) -> None:
        axes.fill_between(at_P, curve.lows, curve.highs, color=ink.raw, alpha=0.6, linewidth=0)
        axes.plot(at_P, curve.values, "o-", color=ink.model, markersize=4, linewidth=1.6)
        if np.isfinite(curve.baselines).any():
            axes.plot(
                at_P, curve.baselines, "D--", color=ink.baseline, markersize=4, linewidth=1.0,
                fillstyle="none",
            )  # fmt: skip
        labels = curve.names or [f"{x:g}" for x in curve.xs]
        if logarithmic or curve.names:
            turn = 30 if curve.names else 0
            axes.set_xticks(at_P, labels, rotation=turn, ha="right" if turn else "center")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.metric)
        axes.margins(x=0.03)

    points = "; ".join(
        f"{name} {value:.3f}"
        for name, value in zip(
            curve.names or [f"{x:g}" for x in curve.xs], curve.values, strict=True
        )
    )
    alt = f"{curve.metric} of {curve.title} by {curve.x_label}: {points}."
    return _picture(curve.title, alt, PANEL_INCHES, draw)


def _picture(
    title: str, alt: str, size: tuple[float, float], draw: Callable[[Axes, Ink], None]
) -> Picture:
    return Picture(
        title=title, alt=alt, light_svg=_svg(size, draw, LIGHT), dark_svg=_svg(size, draw, DARK)
    )


def _svg(size: tuple[float, float], draw: Callable[[Axes, Ink], None], ink: Ink) -> bytes:
    # A fixed salt and no date: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "brewhouse", "font.size": 9.0}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes, ink)
        axes.set_facecolor("none")
        axes.grid(visible=True, color=ink.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=ink.text, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(ink.text)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
