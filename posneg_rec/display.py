"""What all pictures share: axes to draw on, and how they look.

matplotlib is imported when something is drawn: ``pip install 'posneg-rec[plot]'`` brings it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Display",
    "halo",
    "has_negative",
    "label_points",
    "legend",
    "muted",
    "paper",
    "same_scale",
    "text_colour",
    "tidy",
]

# Labels of points stand so far apart, in points of 1/72 inch.
_LABEL_DISTANCE = 14


class Display:
    """Numbers, drawn on axes of the caller's or new ones, which it keeps."""

    def _on_one(self, ax: Axes | None, **figure: Any) -> Any:
        """Take one Axes, of a new figure or as given."""
        plt = self._pyplot()
        self.ax_ = plt.subplots(layout="constrained", **figure)[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        return self.ax_

    def _on_panels(
        self,
        ax: Axes | Sequence[Axes] | None,
        ratios: tuple[int, ...],
        *,
        across: bool = False,
        **figure: Any,
    ) -> NDArray[Any]:
        """Take axes one below the other (or beside), of a new figure, in one Axes, or as given."""
        self.axes_ = axes = self._panels(ax, ratios, across=across, **figure)
        self.figure_ = axes[0].figure
        return axes

    def _panels(
        self, ax: Any, ratios: tuple[int, ...], *, across: bool, **figure: Any
    ) -> NDArray[Any]:
        plt = self._pyplot()
        n = len(ratios)
        if ax is None:
            grid = {"width_ratios": ratios} if across else {"height_ratios": ratios}
            shape = (1, n) if across else (n, 1)
            share = {"sharey": True} if across else {"sharex": True}
            _, axes = plt.subplots(
                *shape, layout="constrained", squeeze=False, gridspec_kw=grid, **share, **figure
            )
            return np.asarray(axes).ravel()
        if isinstance(ax, plt.Axes):
            if n == 1:
                return np.array([ax])
            ax.set_axis_off()
            gap = 0.08
            sizes = (1 - gap * (n - 1)) * np.array(ratios) / sum(ratios)
            starts = np.cumsum(sizes + gap) - sizes - gap
            boxes = [
                (start, 0, size, 1) if across else (0, 1 - start - size, 1, size)
                for start, size in zip(starts, sizes, strict=True)
            ]
            panels = np.array([ax.inset_axes(box) for box in boxes])
            for panel in panels[1:]:
                (panel.sharey if across else panel.sharex)(panels[0])
            return panels
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) != n or not all(isinstance(one, plt.Axes) for one in axes):
            raise ValueError(f"ax must be one Axes or {n} of them, got {len(axes)}: {ax!r:.50}.")
        return axes

    def _pyplot(self) -> Any:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__} draws with matplotlib, which is not installed: "
                "pip install 'posneg-rec[plot]'."
            ) from error
        return plt


def text_colour() -> Any:
    """Return the colour of writing in the style in use."""
    import matplotlib as mpl

    return mpl.rcParams["text.color"]


def muted() -> Any:
    """Return a grey that is seen on light and on dark ground."""
    return "0.5"


def paper(ax: Axes) -> Any:
    """Return the colour that all is drawn on."""
    return ax.get_facecolor()


def halo(ax: Axes) -> list[Any]:
    """Set writing apart from what lies under it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground=paper(ax))]


def tidy(ax: Axes) -> None:
    """Leave two spines and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=muted(), alpha=0.2, linewidth=0.8)
    ax.set_axisbelow(True)


def legend(ax: Axes) -> None:
    """Name what has a label, if anything has."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize="small")


def has_negative(ax: Axes) -> bool:
    """Tell whether anything is drawn below 0."""
    return bool(ax.dataLim.y0 < 0)


def same_scale(ax: Axes) -> None:
    """Make both axes run from 0 to the same end, which holds all that was drawn."""
    end = 1.06 * max(ax.dataLim.x1, ax.dataLim.y1)
    ax.set(xlim=(0, end or 1), ylim=(0, end or 1), aspect="equal")


def label_points(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    labels: Sequence[str],
    first: NDArray[np.int64],
) -> list[Any]:
    """Write beside points what they are, the first and the ends before the others, if it fits."""
    order = list(dict.fromkeys([*first.tolist(), 0, len(x) - 1, *range(len(x))]))
    places = ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
    labelled: list[int] = []
    for point in order:
        if not np.isfinite(places[point]).all():
            continue
        distances = np.linalg.norm(places[labelled] - places[point], axis=1)
        if (distances >= _LABEL_DISTANCE).all():
            labelled.append(point)
    return [
        ax.annotate(
            labels[point],
            (x[point], y[point]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            fontweight="bold" if point in first else "normal",
            path_effects=halo(ax),
            zorder=5,
        )
        for point in sorted(labelled)
    ]
