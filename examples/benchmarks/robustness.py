"""The defaults on worlds of every size and kind, beside a model that sees likes only.

    python examples/benchmarks/robustness.py --json robustness.json

Worlds of `make_opposing_patterns` with 1,000 to 100,000 rows: many, few and no dislikes, dislikes
that tell nothing, and every second user with one event only. Both models have the library's
defaults; "likes only" leaves out the dislikes. 300 further users are ranked, every event from
those before it. HR_p and HR_n are the shares of liked and of disliked events among the first five,
NDCG_p and dNDCG the differences from likes only in NDCG@5 on likes and in NDCG@5 on likes minus
dislikes, with the 95 % interval over users. "At 0" is the same fit with an aversion of 0, which
looks for what comes next, liked or not; "best" knows the world, and ranks by how much likelier it
is that an item comes and is liked than that it comes and is disliked. Worlds and fits of several
seeds are put together.
"""

import argparse
import time
import warnings

import numpy as np
from common import print_table, write_json

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import TargetRanks, compare, summarize

N_TEST_USERS = 300
K = 5
WORLDS = {
    "30 % disliked": {},
    "40 % disliked": {"neutral_share": 0.2},
    "1 % disliked": {},
    "none disliked": {},
    "dislikes tell nothing": {"informative_dislikes": False},
    "half with one event": {},
}


def make_world(kind, n_rows, seed):
    """Training events and their signs, and the events of the test users and theirs."""
    n_users = round(n_rows / 22.5)
    world = make_opposing_patterns(n_users + N_TEST_USERS, random_state=seed, **WORLDS[kind])
    events, signs = world.interactions, world.feedback
    rng = np.random.default_rng(seed)
    if kind in ("1 % disliked", "none disliked"):
        share = 0.01 / (1 - 0.01) * np.mean(signs == 1) / np.mean(signs == -1)
        kept = (signs == 1) | ((kind == "1 % disliked") & (rng.random(len(signs)) < share))
        events, signs = events[kept], signs[kept]
    is_test = events[:, 0] >= n_users
    train = ~is_test
    if kind == "half with one event":
        first = np.append(True, events[1:, 0] != events[:-1, 0])
        train &= (events[:, 0] % 2 == 0) | first
    return world.truth, (events[train], signs[train]), (events[is_test], signs[is_test])


def best_ranks(truth, events, signs, n_items):
    """Ranks of all events but each user's first by the best ranking that there is."""
    ranks = np.empty(len(events), dtype=np.int64)
    starts = np.flatnonzero(np.append(True, events[1:, 0] != events[:-1, 0]))
    for start, stop in zip(starts, [*starts[1:], len(events)], strict=True):
        items = events[start:stop, 1]
        for place, item in enumerate(items):
            ranking = truth.best_ranking(items[:place], signs[start : start + place])
            ranks[start + place] = 1 + np.flatnonzero(ranking == item)[0]
    told = np.setdiff1d(np.flatnonzero(signs != 0), starts)
    return TargetRanks(events[told, 0], told, signs[told], ranks[told], n_items)


def fit_and_rank(kind, n_rows, seed):
    """Fit both models to the world of a seed; its events and what each ranking makes of them."""
    truth, train, test = make_world(kind, n_rows, seed)
    likes_only = {"objective": "pnfrec", "negative_weight": 0.0, "contrastive_weight": 0.0}
    ranks, seconds = {}, {}
    for name, settings in (("ours", {}), ("likes only", likes_only)):
        model = ContrastiveSeqRecommender(**settings, random_state=seed)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "None of the .* events is disliked", UserWarning)
            model.fit(*train)
        seconds[name] = time.perf_counter() - start
        if name == "ours":
            aversions = [model.dislike_aversion, 0.0]
            ranks["ours"], ranks["at 0"] = model.target_ranks(
                *test, targets="all", dislike_aversion=aversions
            )
        else:
            ranks[name] = model.target_ranks(*test, targets="all")
    ranks["best"] = best_ranks(truth, *test, len(truth.item_group))
    return train, ranks, seconds["ours"]


def together(parts):
    """Put the ranks of several worlds into one, whose users are all different."""
    users = [part.users.astype(np.int64) for part in parts]
    width = 1 + max(part.max() for part in users)
    return TargetRanks(
        np.concatenate([place * width + part for place, part in enumerate(users)]),
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "signs", "ranks")),
        parts[0].n_items,
    )


def run(kind, n_rows, seeds):
    found = [fit_and_rank(kind, n_rows, seed) for seed in seeds]
    signs = np.concatenate([signs for (_, signs), _, _ in found])
    row = {
        "world": kind,
        "rows": round(np.mean([len(events) for (events, _), _, _ in found])),
        "seeds": len(seeds),
        "disliked": float(np.mean(signs == -1)),
    }
    ranks = {name: together([part[name] for _, part, _ in found]) for name in found[0][1]}
    for name, of_name in ranks.items():
        values = summarize([of_name], k=K, n_bootstraps=1).to_dict()
        row |= {
            f"HR_p {name}": values["hit_rate_liked"],
            f"HR_n {name}": values["hit_rate_disliked"],
        }
    keys = (("ndcg_liked", "NDCG_p"), ("ndcg_delta", "dNDCG"))
    for name in ("ours", "at 0", "best"):
        compared = [ranks[name]], [ranks["likes only"]]
        difference = compare(*compared, k=K, random_state=0).to_dict()
        for key, title in keys:
            low, high = difference[f"{key}_low"], difference[f"{key}_high"]
            row[f"{title}, {name}"] = f"{difference[key]:+.3f} [{low:+.3f}, {high:+.3f}]"
    return row | {"fit, s": np.mean([seconds for *_, seconds in found])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    rows = []
    for n_rows in options.rows:
        for kind in options.worlds:
            rows.append(run(kind, n_rows, options.seeds))
            print(f"{n_rows:,} rows, {kind}: done", flush=True)
    print_table(rows)
    if options.json:
        write_json(options.json, {"seeds": options.seeds, "k": K, "rows": rows})


if __name__ == "__main__":
    main()
