"""How fast and in how little memory a fitted model answers.

    python examples/benchmarks/serving.py --json serving.json

measures the time of one history, of all users of a table shaped like MovieLens-1M, and of 1,000
histories over 1,000,000 items; then how an answer grows with the items, with k and with the
length of a history. Weights are random: they take as long as trained ones. Each line is a
process of its own, so that its peak memory is its own; memory counts from the loaded model and
its input on. OMP_NUM_THREADS sets the threads.
"""

import argparse
import json
import sys
import time

import numpy as np
import pandas as pd
from common import forget_peak_rss, in_subprocess, peak_rss_mib, print_table, write_json
from data import rss_mib

from posneg_rec import ContrastiveSeqRecommender

FULL = {
    "one_calls": 1_000,
    "table": {"n_users": 6_040, "n_rows": 1_000_209, "n_items": 3_416},
    "large": {"n_items": 1_000_000, "n_histories": 1_000},
    "n_items": [1_000, 10_000, 100_000, 1_000_000],
    "k": [1, 10, 100, 1_000],
    "length": [10, 50, 100, 500],
}
QUICK = {
    "one_calls": 200,
    "table": {"n_users": 600, "n_rows": 100_000, "n_items": 3_416},
    "large": {"n_items": 100_000, "n_histories": 100},
    "n_items": [1_000, 10_000],
    "k": [1, 100],
    "length": [10, 100],
}
BASE = {"n_items": 3_416, "k": 10, "length": 100}
N_REPEATS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers, within a minute")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)  # of a subprocess
    args = parser.parse_args()
    if args.case:
        name, options = args.case
        print(json.dumps(CASES[name](**json.loads(options))))
        return
    sizes = QUICK if args.quick else FULL
    results = {}
    run = lambda case, **options: in_subprocess(  # noqa: E731
        __file__, "--case", case, json.dumps(options)
    )
    one = {"calls": sizes["one_calls"]}
    results["one history"] = [run("one", **one, **BASE)]
    results["all users of a table"] = [run("table", **sizes["table"])]
    results["many items"] = [run("large", **sizes["large"], k=10)]
    for axis in ("n_items", "k", "length"):
        points = [{**BASE, axis: value} for value in sizes[axis]]
        results[f"one history by {axis}"] = [run("one", **one, **point) for point in points]
    for title, rows in results.items():
        print(f"\n{title}")
        print_table(rows)
    if args.json:
        write_json(args.json, {"sizes": sizes, "results": results})


def model_of(n_items):
    """A model of the default architecture with random vectors of its items."""
    n_few = 11
    rows = np.column_stack([np.repeat(np.arange(3), n_few), np.tile(np.arange(n_few), 3)])
    model = ContrastiveSeqRecommender(
        positive_threshold=4, max_epochs=1, early_stopping=False, random_state=0, device="cpu"
    ).fit(rows, 1 + np.arange(len(rows)) % 5)
    rng = np.random.default_rng(0)
    for name, value in model.weights_.items():
        if len(value) == n_few:
            vectors = rng.standard_normal((n_items, *value.shape[1:]), np.float32)
            vectors *= 0.1
            model.weights_[name] = vectors
    model.items_ = np.arange(n_items)
    model.item_likes_, model.item_dislikes_ = rng.integers(0, 100, (2, n_items))
    return model


def measured(answer):
    """Seconds of the best of some answers, and the memory that they took beyond what was held."""
    forget_peak_rss()
    before, seconds = rss_mib(), []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "extra_peak_mib": peak_rss_mib() - before}


def case_one(n_items, k, length, calls):
    model, rng = model_of(n_items), np.random.default_rng(1)
    histories = rng.integers(0, n_items, (50, length)).tolist()
    ratings = rng.integers(1, 6, (50, length)).tolist()
    model.recommend(histories[0], k=k, feedback=ratings[0])
    seconds = []
    for call in range(calls):
        history, feedback = histories[call % 50], ratings[call % 50]
        start = time.perf_counter()
        model.recommend(history, k=k, feedback=feedback)
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1e3
    return {"n_items": n_items, "k": k, "length": length, "p50_ms": p50, "p95_ms": p95}


def case_table(n_users, n_rows, n_items):
    rng = np.random.default_rng(1)
    # As many events as users of MovieLens-1M have: 20 at least, half of them fewer than 100.
    weights = rng.lognormal(0, 1.1, n_users)
    lengths = 20 + (weights / weights.sum() * (n_rows - 20 * n_users)).astype(int)
    users = rng.permutation(np.repeat(np.arange(n_users), lengths))
    table = pd.DataFrame(
        {
            "user_id": users,
            "item_id": rng.integers(0, n_items, len(users)),
            "timestamp": rng.integers(9 * 10**8, 10**9, len(users)),
        }
    )
    ratings = pd.Series(rng.integers(1, 6, len(users)))
    model = model_of(n_items)
    figures = measured(lambda: model.recommend(table, k=10, feedback=ratings))
    return {"n_users": n_users, "n_rows": len(users), "n_items": n_items, **figures}


def case_large(n_items, n_histories, k):
    model, rng = model_of(n_items), np.random.default_rng(1)
    histories = rng.integers(0, n_items, (n_histories, 100)).tolist()
    ratings = rng.integers(1, 6, (n_histories, 100)).tolist()
    figures = measured(lambda: model.recommend(histories, k=k, feedback=ratings))
    return {"n_items": n_items, "n_histories": n_histories, "k": k, **figures}


CASES = {"one": case_one, "table": case_table, "large": case_large}

if __name__ == "__main__":
    sys.exit(main())
