"""Draw what `reproduce_paper.py` found: hits on likes against hits on dislikes.

The curve is one fitted model, asked with more and more aversion to dislikes; the points are the
other methods. It takes matplotlib (the ``plot`` extra)::

    python examples/tradeoff.py results/ml-1m/report.json --out tradeoff.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.patheffects
import matplotlib.pyplot as plt

X, Y = "hit_rate_disliked", "hit_rate_liked"
# One colour and one marker for each kind of method.
GROUPS = {
    "#d95f02": ("full", "full-tuned", "pn", "pc"),
    "#1b6ca8": (
        "likes-only",
        "likes-only-tuned",
        "likes-only-random",
        "likes-only-random-tuned",
        "session-contrast",
        "no-signs",
    ),
    "#3c8d40": ("liked-targets",),
    "#777777": ("item-item", "popular-liked", "popular"),
}
MARKERS = "osD^vP"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", help="report.json of reproduce_paper.py, with P1")
    parser.add_argument("--out", metavar="FILE", help="default: tradeoff.png beside the report")
    args = parser.parse_args(arguments)
    report = json.loads(Path(args.report).read_text())
    out = Path(args.out) if args.out else Path(args.report).with_name("tradeoff.png")
    figure = draw(report)
    figure.savefig(out, dpi=160)
    plt.close(figure)
    print(f"{out} is drawn.")


def draw(report: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for method, by_aversion in report["aversions"]["P1"].items():
        draw_curve(axes, report["methods"][method], by_aversion)
    values = report["protocols"]["P1"]["values"]
    for colour, methods in GROUPS.items():
        for marker, method in zip(MARKERS, methods, strict=False):
            if method in values:
                label = report["methods"][method]["label"]
                draw_point(axes, values[method], label, colour, marker)
    axes.set_xlabel("HR@10 on disliked items (lower is better)")
    axes.set_ylabel("HR@10 on liked items (higher is better)")
    axes.set_title(f"{report['name']}: every held-out event of the test users", fontsize="medium")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def draw_curve(axes, method: dict, by_aversion: dict) -> None:
    """The aversions of one model, each point with its aversion."""
    halo = [matplotlib.patheffects.withStroke(linewidth=2, foreground="white")]
    points = [(value[X], value[Y]) for value in by_aversion.values()]
    axes.plot(
        *zip(*points, strict=True),
        color="black",
        linewidth=1.2,
        marker=".",
        label=f"{method['label']}, by its aversion",
        zorder=4,
    )
    for aversion, value in by_aversion.items():
        is_own = float(aversion) == method["dislike_aversion"]
        if is_own:
            draw_point(axes, value, f"{method['label']}, as it is", "black", "o")
        axes.annotate(
            f"{float(aversion):g}",
            (value[X], value[Y]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            path_effects=halo,
            zorder=4.5,
            fontsize="small",
            fontweight="bold" if is_own else "normal",
        )


def draw_point(axes, value: dict, label: str, colour: str, marker: str) -> None:
    """A method with its intervals."""
    errors = [
        [[value[key] - value[f"{key}_low"]], [value[f"{key}_high"] - value[key]]] for key in (X, Y)
    ]
    axes.errorbar(
        value[X],
        value[Y],
        xerr=errors[0],
        yerr=errors[1],
        fmt=marker,
        color=colour,
        ecolor=(*matplotlib.colors.to_rgb(colour), 0.35),
        elinewidth=1,
        markersize=6,
        label=label,
        zorder=5,
    )


if __name__ == "__main__":
    main()
