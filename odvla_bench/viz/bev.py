"""Bird's-eye pictures of keyframes: the ego, the agents around it, the recorded path and plans.

All coordinates are in the LIDAR frame at t0 (x right, y forward), metres; forward is up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from odvla_bench.errors import MissingDependencyError
from odvla_bench.geometry import box_corners

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EGO_LENGTH_M, EGO_WIDTH_M, EGO_AHEAD_M = 4.084, 1.85, 0.5
_HALF_WIDTH_M, _BEHIND_M, _AHEAD_M = 22.0, 12.0, 44.0
_RECORDED = "#2a9d4a"
_PLANS = ("#e4572e", "#3a6ea5", "#8e5ea2", "#c99700", "#4d4d4d")
_AGENTS = {"vehicle": "#6f8fb0", "human": "#d08a3e", "movable_object": "#b9b9b9"}


@dataclass(frozen=True)
class Keyframe:
    """What one picture shows."""

    title: str
    agents_xy_yaw: npt.NDArray[np.floating[Any]]
    """(M, 3) box centres and headings."""
    agents_wl: npt.NDArray[np.floating[Any]]
    """(M, 2) widths and lengths."""
    agents_category: Sequence[str]
    agents_future_m: npt.NDArray[np.floating[Any]]
    """(M, 6, 2) recorded futures, NaN where there is none."""
    recorded_m: npt.NDArray[np.floating[Any]]
    """(6, 2) the ego's recorded future, NaN where there is none."""
    plans_m: Mapping[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)
    """Name → (6, 2) plan."""
    history_m: npt.NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros((0, 2)))
    """(K, 2) where the ego was."""


def draw(path: Path, keyframes: Sequence[Keyframe], *, columns: int = 4) -> None:
    """Write a picture (the format is the file name's ending) with one panel a keyframe.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="viz", purpose="pictures") from error
    columns = max(1, min(columns, len(keyframes)))
    rows = max(1, -(-len(keyframes) // columns))
    figure = Figure(figsize=(3.6 * columns, 4.9 * rows + 0.4), dpi=110, layout="constrained")
    axes = np.atleast_1d(np.array(figure.subplots(rows, columns))).ravel()
    for ax in axes[len(keyframes) :]:
        ax.set_axis_off()
    for ax, keyframe in zip(axes, keyframes, strict=False):
        _panel(ax, keyframe)
    handles = {
        label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
        )
    figure.savefig(path)


def _panel(ax: Axes, keyframe: Keyframe) -> None:
    ax.set_facecolor("#f7f7f5")
    for x in range(-20, 21, 10):
        ax.axvline(x, color="white", lw=1, zorder=0)
    for y in range(-10, 41, 10):
        ax.axhline(y, color="white", lw=1, zorder=0)
    _agents(ax, keyframe)
    if len(keyframe.history_m):
        ax.plot(*keyframe.history_m.T, color="#555555", lw=1, ls=":", zorder=3)
    for i, (name, plan) in enumerate(keyframe.plans_m.items()):
        _path(ax, plan, _PLANS[i % len(_PLANS)], name, "s")
    _path(ax, keyframe.recorded_m, _RECORDED, "recorded", "o")
    _ego(ax)
    ax.set_title(keyframe.title, fontsize=8, loc="left")
    ax.set_xlim(-_HALF_WIDTH_M, _HALF_WIDTH_M)
    ax.set_ylim(-_BEHIND_M, _AHEAD_M)
    ax.set_aspect("equal")
    ax.tick_params(labelsize=6, length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _agents(ax: Axes, keyframe: Keyframe) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    if not len(keyframe.agents_xy_yaw):
        return
    width, length = keyframe.agents_wl.T
    corners = box_corners(
        keyframe.agents_xy_yaw[:, :2], keyframe.agents_xy_yaw[:, 2], length, width
    )
    colours = [_AGENTS.get(c.split(".")[0], "#cccccc") for c in keyframe.agents_category]
    ax.add_collection(
        PolyCollection(list(corners), facecolors=colours, edgecolors="white", lw=0.5, zorder=2)
    )
    start = keyframe.agents_xy_yaw[:, None, :2]
    tails = np.concatenate([start, keyframe.agents_future_m], 1)
    whole = [tail[np.isfinite(tail).all(1)] for tail in tails]
    ax.add_collection(LineCollection(whole, colors=colours, lw=0.8, alpha=0.8, zorder=2))


def _ego(ax: Axes) -> None:
    corners = box_corners(
        np.array([0.0, EGO_AHEAD_M]),
        np.array(np.pi / 2),
        np.array(EGO_LENGTH_M),
        np.array(EGO_WIDTH_M),
    )
    ax.fill(*corners.T, facecolor="#222222", edgecolor="white", lw=0.5, zorder=4)


def _path(ax: Axes, xy: npt.NDArray[Any], colour: str, label: str, marker: str) -> None:
    line = np.concatenate([np.zeros((1, 2)), xy])
    ax.plot(*line.T, color=colour, lw=1.6, zorder=5)
    ax.plot(*xy.T, color=colour, lw=0, marker=marker, ms=3.5, zorder=6, label=label)
