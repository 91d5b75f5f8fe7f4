"""How time and memory grow with users, events per user, items and k.

    python examples/benchmarks/growth.py --json growth.json

starts from a base point and moves along one axis at a time, for each of three parts: reading
(frame to histories), one epoch of training, and recommending for all users. Each point is a
process of its own, so that its peak memory is its own. An exponent is the slope of the logarithm
of time or memory over that of the axis: 1 is linear growth, 0 none. A point that by its
predecessor would take longer than a minute is left out, and the table says so.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import in_subprocess, peak_rss_mib, print_table, write_json
from data import rss_mib

MAX_SECONDS = 60
BASES = {
    "read": {"users": 10_000, "events": 50, "items": 10_000},
    "epoch": {"users": 2_000, "events": 50, "items": 10_000},
    "recommend": {"users": 1_000, "events": 50, "items": 10_000, "k": 10},
}
AXES = {
    "users": [1_000, 3_000, 10_000, 100_000, 1_000_000],
    "events": [20, 50, 100, 200, 500, 1_000],
    "items": [1_000, 10_000, 100_000, 1_000_000],
    "k": [1, 10, 100, 1_000],
}
QUICK_BASE = {"users": 200, "events": 20, "items": 500, "k": 10}
QUICK_AXES = {
    "users": [100, 300, 1_000],
    "events": [20, 50, 100],
    "items": [500, 2_000, 10_000],
    "k": [1, 10, 100],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers, within minutes")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)  # of a subprocess
    args = parser.parse_args()
    if args.point:
        part, point, path = args.point
        print(json.dumps(PARTS[part](path, **json.loads(point))))
        return
    axes, points, fits = QUICK_AXES if args.quick else AXES, [], []
    with tempfile.TemporaryDirectory() as folder:
        for part, base in BASES.items():
            if args.quick:
                base = {axis: QUICK_BASE[axis] for axis in base}
            for axis in base:
                measured, left_out = walk(part, base, axis, axes[axis], Path(folder))
                points += measured
                fits.append(fit(part, axis, measured, left_out))
    print_table(points)
    print()
    print_table(fits)
    if args.json:
        write_json(args.json, {"points": points, "exponents": fits})


def walk(part, base, axis, values, folder):
    """Measure along one axis, upwards, until a point would take too long."""
    measured = []
    for place, value in enumerate(values):
        # Time is about linear in every axis, or grows less.
        if measured:
            last = measured[-1]
            if last["seconds"] * value / last["value"] > MAX_SECONDS:
                return measured, values[place:]
        point = base | {axis: value}
        model = folder / f"{point['items']}.npz"
        if part == "recommend" and not model.exists():
            in_subprocess(__file__, "--point", "model", json.dumps(point), model)
        result = in_subprocess(__file__, "--point", part, json.dumps(point), model)
        measured.append({"part": part, "axis": axis, "value": value, **result})
    return measured, []


def fit(part, axis, points, left_out):
    """Fit the exponents of time and memory."""

    def exponent(name):
        if len(points) < 2:
            return None
        # Below a millisecond or a MiB a figure is noise.
        floor = {"seconds": 1e-3, "extra_mib": 1.0}[name]
        x, y = (np.log([max(point[key], floor) for point in points]) for key in ("value", name))
        return float(np.polyfit(x, y, 1)[0])

    return {
        "part": part,
        "axis": axis,
        "time exponent": exponent("seconds"),
        "memory exponent": exponent("extra_mib"),
        "from": points[0]["value"],
        "to": points[-1]["value"],
        f"left out (> {MAX_SECONDS} s)": ", ".join(map(str, left_out)) or "-",
    }


def make_table(users, events, items):
    """Make a frame of events in random order, a few items with much of them, and its feedback."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n_rows = users * events
    columns = {
        "user": rng.permutation(np.repeat(np.arange(users), events)),
        "item": (items * rng.random(n_rows) ** 2).astype(np.int64),
        "time": rng.integers(0, 500_000_000, n_rows),
    }
    return pd.DataFrame(columns, copy=False), rng.integers(0, 2, n_rows, dtype=np.int8)


def make_model():
    from posneg_rec import ContrastiveSeqRecommender

    # Without the memory of items, which is made after the last epoch and would take its own.
    return ContrastiveSeqRecommender(
        max_epochs=1, early_stopping=False, embedding_dim=64, item_memory=False, random_state=0
    )


def measure(f):
    before, start = rss_mib(), time.perf_counter()
    result = f()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "extra_mib": max(peak_rss_mib() - before, 0.0)}


def read(path, users, events, items):
    from posneg_rec.ids import ItemVocabulary
    from posneg_rec.interactions import build_histories, read_interactions

    def histories(table, feedback):
        read = read_interactions(table, feedback)
        return build_histories(read, ItemVocabulary.from_ids(read.item_ids))

    histories(*make_table(1_000, 20, 100))  # few rows would not import all that many do
    table, feedback = make_table(users, events, items)
    return measure(lambda: histories(table, feedback))[1]


def epoch(path, users, events, items):
    make_model().fit(*make_table(50, 20, 10))
    table, feedback = make_table(users, events, items)
    model, result = measure(lambda: make_model().fit(table, feedback))
    return result | {"seconds": model.history_["seconds"][0]}


def save_model(path, items, **_):
    """Save a model of so many items, with a memory as large as that of a model of much data."""
    from serving import model_of

    model_of(items, positive_threshold=1, embedding_dim=64).save(path)
    return {}


def recommend(path, users, events, items, k):
    from posneg_rec import ContrastiveSeqRecommender

    # A history may leave fewer than k items to recommend.
    warnings.simplefilter("ignore", UserWarning)
    model = ContrastiveSeqRecommender.load(path)
    table, feedback = make_table(20, 20, items)
    model.recommend(table, feedback=feedback)  # what is imported late
    table, feedback = make_table(users, events, items)
    return measure(lambda: model.recommend(table, k=k, feedback=feedback))[1]


PARTS = {"read": read, "epoch": epoch, "recommend": recommend, "model": save_model}

if __name__ == "__main__":
    main()
