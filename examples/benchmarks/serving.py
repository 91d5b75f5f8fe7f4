"""How fast and in how little memory a fitted model answers.

    python examples/benchmarks/serving.py --json serving.json

measures the time of one history, of all users of a table shaped like MovieLens-1M, and of 1,000
histories over 1,000,000 items, with the memory of items and without; then how an answer grows with
the items, with k and with the length of a history. Weights and the memory are random: they take as
long as learned ones. Each line is a process of its own, so that its peak memory is its own; memory
counts from the loaded model and its input on. OMP_NUM_THREADS sets the threads.
"""

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
from common import forget_peak_rss, in_subprocess, peak_rss_mib, print_table, write_json
from data import rss_mib

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.memory import ItemMemory, ItemWeights, WeighedMemory, usual_neighbours

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
    headlines = {
        "one history": ("one", one | BASE),
        "all users of a table": ("table", sizes["table"]),
        "many items": ("large", sizes["large"] | {"k": 10}),
    }
    for title, (case, options) in headlines.items():
        results[title] = [run(case, **options, memory=memory) for memory in (True, False)]
    for axis in ("n_items", "k", "length"):
        points = [{**BASE, axis: value} for value in sizes[axis]]
        results[f"one history by {axis}"] = [run("one", **one, **point) for point in points]
    for title, rows in results.items():
        print(f"\n{title}")
        print_table(rows)
    if args.json:
        write_json(args.json, {"sizes": sizes, "results": results})


def model_of(n_items, *, memory=True, positive_threshold=4, **sizes):
    """A model of the default architecture with random vectors and a random memory of its items."""
    n_few = 11
    rows = np.column_stack([np.repeat(np.arange(3), n_few), np.tile(np.arange(n_few), 3)])
    model = ContrastiveSeqRecommender(
        positive_threshold=positive_threshold,
        max_epochs=1,
        early_stopping=False,
        random_state=0,
        device="cpu",
        **sizes,
    ).fit(rows, np.arange(len(rows)) % 6)
    rng = np.random.default_rng(0)
    weights = dict(model.weights_)
    weights.pop("latest.weight")  # which a model of more users lacks
    for name, value in weights.items():
        if len(value) == n_few:
            vectors = rng.standard_normal((n_items, *value.shape[1:]), np.float32)
            vectors *= 0.1
            weights[name] = vectors
    likes, dislikes = rng.integers(0, 100, (2, n_items))
    model.fitted_ = replace(
        model.fitted_,
        items=np.arange(n_items),
        weights=weights,
        likes=likes,
        dislikes=dislikes,
        memory=WeighedMemory(memory_of(n_items, rng)) if memory else None,
        last_seen=None,
    )
    return model


def memory_of(n_items, rng):
    """A memory with as many weights as one of much data has, but random ones."""
    n_neighbours = min(usual_neighbours(n_items), n_items)
    following, taste = (weights_of_items(n_items, n_neighbours, rng) for _ in range(2))
    levels = rng.uniform(-1, 1, n_items).astype(np.float32)
    return ItemMemory(following, taste, levels, np.full(n_items, 100, np.float32), 0.0)


def weights_of_items(n_items, n_neighbours, rng):
    # One neighbour from each of as many parts of the catalogue: distinct and ascending.
    items = rng.integers(n_items // n_neighbours, size=(n_items, n_neighbours), dtype=np.int32)
    items += n_items // n_neighbours * np.arange(n_neighbours, dtype=np.int32)
    weights = rng.random(items.size, np.float32)
    weights *= 0.02
    return ItemWeights(
        offsets=np.arange(0, items.size + 1, n_neighbours),
        items=items.ravel(),
        weights=weights,
        evidence=np.full(n_items, 100, np.float32),
    )


def measured(answer):
    """Seconds of the best of some answers, and the memory that they took beyond what was held."""
    forget_peak_rss()
    before, seconds = rss_mib(), []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        answer()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "extra_peak_mib": peak_rss_mib() - before}


def case_one(n_items, k, length, calls, memory=True):
    model, rng = model_of(n_items, memory=memory), np.random.default_rng(1)
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
    case = {"n_items": n_items, "k": k, "length": length, "memory": memory}
    return {**case, "p50_ms": p50, "p95_ms": p95}


def case_table(n_users, n_rows, n_items, memory):
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
    model = model_of(n_items, memory=memory)
    figures = measured(lambda: model.recommend(table, k=10, feedback=ratings))
    case = {"n_users": n_users, "n_rows": len(users), "n_items": n_items, "memory": memory}
    return {**case, **figures}


def case_large(n_items, n_histories, k, memory):
    model, rng = model_of(n_items, memory=memory), np.random.default_rng(1)
    histories = rng.integers(0, n_items, (n_histories, 100)).tolist()
    ratings = rng.integers(1, 6, (n_histories, 100)).tolist()
    figures = measured(lambda: model.recommend(histories, k=k, feedback=ratings))
    return {"n_items": n_items, "n_histories": n_histories, "k": k, "memory": memory, **figures}


CASES = {"one": case_one, "table": case_table, "large": case_large}

if __name__ == "__main__":
    sys.exit(main())
