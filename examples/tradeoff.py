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
import matplotlib.pyplot as plt
import numpy as np

from posneg_rec.metrics import AversionCurve, Evaluation
from posneg_rec.plotting import TradeoffDisplay

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
        TradeoffDisplay(
            curve=curve_of(by_aversion, report["methods"][method]["dislike_aversion"]),
            name=f"{report['methods'][method]['label']}, by its aversion",
        ).plot(axes, intervals=False, color="black")
    values = report["protocols"]["P1"]["values"]
    for colour, methods in GROUPS.items():
        for marker, method in zip(MARKERS, methods, strict=False):
            if method in values:
                TradeoffDisplay(
                    curve=Evaluation.from_dict(values[method]),
                    name=report["methods"][method]["label"],
                ).plot(axes, color=colour, marker=marker)
    axes.set_title(f"{report['name']}: every held-out event of the test users", fontsize="medium")
    axes.get_legend().remove()
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def curve_of(by_aversion: dict, own_aversion: float) -> AversionCurve:
    told = {float(aversion): value for aversion, value in by_aversion.items()}
    aversions = sorted(told)
    evaluations = tuple(Evaluation.from_dict(told[aversion]) for aversion in aversions)
    return AversionCurve(np.array(aversions), evaluations, own_aversion=own_aversion)


if __name__ == "__main__":
    main()
