"""From a frame to packed sequences: time, and memory beside the frame, by step.

    python examples/benchmarks/data.py --json data.json

makes tables of 25 million ratings, as pandas and as polars frames, and takes them the way that
``fit`` does: read and validate, build the vocabulary, sort into histories, split by sign. Each
run is a process of its own, so that its peak memory is its own; the fastest of three counts.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import time

import numpy as np
from common import in_subprocess, peak_rss_mib, print_table, write_json

N_USERS, N_ITEMS, N_REPEATS = 160_000, 60_000, 3
# What the ids are, how the rows are ordered, and which share of the rows a case takes.
CASES = {
    "shuffled": "int64 ids and times, rows in random order",
    "datetimes": "int64 ids and datetimes, rows in random order",
    "by time": "int64 ids and datetimes, rows in the order of time, as a log has them",
    "hashed": "int64 ids from the whole range, float ratings, rows by user",
    "text": "ids are strings, rows in random order, a tenth of the rows",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=25_000_000)
    parser.add_argument("--quick", action="store_true", help="a million rows")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)  # of a subprocess
    args = parser.parse_args()
    n_rows = 1_000_000 if args.quick else args.rows
    if args.case:
        print(json.dumps(measure(*args.case, n_rows)))
        return
    results = []
    for case in CASES:
        for library in ("pandas", "polars"):
            runs = [
                in_subprocess(__file__, "--case", case, library, "--rows", n_rows)
                for _ in range(N_REPEATS)
            ]
            results.append(min(runs, key=lambda run: run["seconds"]))
            results[-1]["extra_mib"] = max(run["extra_mib"] for run in runs)
    print_table([row(result) for result in results])
    for case, text in CASES.items():
        print(f"{case}: {text}")
    if args.json:
        libraries = {name: importlib.metadata.version(name) for name in ("pandas", "polars")}
        write_json(args.json, {"cases": CASES, "libraries": libraries, "results": results})


def row(result):
    """A result as a line of the table, its steps as shares of the time."""
    steps = {name: f"{s / result['seconds']:.0%}" for name, s in result["steps"].items()}
    return {
        **{name: result[name] for name in ("case", "library", "n_rows", "seconds", "cpu_seconds")},
        **steps,
        "input MiB": round(result["input_mib"]),
        "extra MiB": round(result["extra_mib"]),
        "extra / input": result["extra_mib"] / result["input_mib"],
    }


def measure(case, library, n_rows):
    """Time the steps of one case, and how far memory rises above the frame."""
    from posneg_rec.ids import ItemVocabulary
    from posneg_rec.interactions import build_histories, read_interactions

    if case == "text":
        n_rows //= 10
    frame, rating, n_bytes = make_frame(case, library, n_rows)
    read_interactions(frame[:10], rating[:10], positive_threshold=4)  # what is imported late
    gc.collect()
    before = rss_mib()
    cpu_before = time.process_time()
    steps = {}

    def step(name, f):
        start = time.perf_counter()
        result = f()
        steps[name] = time.perf_counter() - start
        return result

    events = step("read", lambda: read_interactions(frame, rating, positive_threshold=4))
    vocabulary = step("vocabulary", lambda: ItemVocabulary.from_ids(events.item_ids))
    histories = step("histories", lambda: build_histories(events, vocabulary))
    liked, disliked = step("split", lambda: [histories.of_sign(sign) for sign in (1, -1)])
    assert len(liked[1]) + len(disliked[1]) == n_rows
    return {
        "case": case,
        "library": library,
        "n_rows": n_rows,
        "n_users": len(histories),
        "n_items": len(vocabulary),
        "seconds": sum(steps.values()),
        "cpu_seconds": time.process_time() - cpu_before,
        "steps": steps,
        "input_mib": n_bytes / 2**20,
        "extra_mib": peak_rss_mib() - before,
    }


def rss_mib():
    """The memory that this process holds now; where that cannot be read, the most so far."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return peak_rss_mib()


def make_frame(case, library, n_rows):
    """Make a frame without its rating, the rating, and tell the bytes of both.

    Columns are filled piece by piece, so that making them takes little more memory than they do:
    a peak from before would hide a lower one, or count as extra.
    """
    rng = np.random.default_rng(0)
    user_ids, item_ids = (1 + np.arange(n) for n in (N_USERS, N_ITEMS))
    if case == "hashed":
        user_ids, item_ids = (rng.integers(-(2**62), 2**62, n) for n in (N_USERS, N_ITEMS))
    columns = {name: np.empty(n_rows, np.int64) for name in ("user", "item", "time")}
    rating = np.empty(n_rows, np.float64 if case == "hashed" else np.int8)
    # A few users and items have much of the events, as everywhere.
    for first in range(0, n_rows, 1 << 18):
        part = slice(first, min(first + (1 << 18), n_rows))
        n = part.stop - part.start
        user = (N_USERS * rng.random(n) ** 2).astype(np.int64)
        if case == "hashed":
            user = N_USERS * np.arange(part.start, part.stop) // n_rows
        columns["user"][part] = user_ids[user]
        columns["item"][part] = item_ids[(N_ITEMS * rng.random(n) ** 3).astype(np.int64)]
        columns["time"][part] = 1_000_000_000 + rng.integers(0, 500_000_000, n)
        rating[part] = rng.integers(1, 6, n)
    if case == "by time":
        columns["time"].sort()
    if case in ("datetimes", "by time"):
        columns["time"] *= 1_000_000
        columns["time"] = columns["time"].view("M8[us]")
    n_bytes = sum(values.nbytes for values in columns.values()) + rating.nbytes
    if library == "pandas":
        import pandas as pd

        frame = pd.DataFrame(columns, copy=False)
        if case == "text":
            for name, prefix in (("user", "user-"), ("item", "item-")):
                frame[name] = prefix + frame[name].astype("str")
            n_bytes = int(frame.memory_usage(deep=True).sum()) + rating.nbytes
        return frame, pd.Series(rating, copy=False), n_bytes
    import polars as pl
    import pyarrow as pa

    frame = pl.from_arrow(pa.table(columns))
    if case == "text":
        frame = frame.with_columns(
            pl.concat_str(pl.lit(f"{name}-"), name).alias(name) for name in ("user", "item")
        )
        n_bytes = frame.estimated_size() + rating.nbytes
    return frame, pl.from_arrow(pa.array(rating)), n_bytes


if __name__ == "__main__":
    main()
