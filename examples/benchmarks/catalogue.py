"""Training against catalogues of every size: the full softmax and a sampled one.

    python examples/benchmarks/catalogue.py [--json FILE] [--quick]

A step trains the default model on 64 users with 100 events each, against 1e4 to 1e6 items. Each
row is a process of its own, so that its memory is its own. Steps are those of a second epoch; an
"epoch's end" copies the weights once and checks them, which does grow with the catalogue.
"""

import argparse
import json

import numpy as np
import torch
from common import in_subprocess, peak_rss_mib, print_table, write_json
from training_step import seconds_of_steps, settings_of

from posneg_rec import ContrastiveSeqRecommender, objectives, training
from posneg_rec.objectives import JointObjective
from posneg_rec.sequences import Histories

N_USERS, N_EVENTS, N_STEPS = 64, 100, 5
# What fits to few users do otherwise is not the question here.
training._MIN_STEPS, objectives._FEW_USERS = 1, 0


def make_histories(n_users, n_items, rng):
    n_events = n_users * (N_EVENTS + 1)
    return Histories(
        users=np.arange(n_users),
        items=rng.integers(n_items, size=n_events),
        signs=rng.choice(np.array([-1, 1], dtype=np.int8), size=n_events),
        times=None,
        rows=np.arange(n_events),
        offsets=np.arange(0, n_events + 1, N_EVENTS + 1),
    )


def run(n_items, n_negatives):
    rng = np.random.default_rng(0)
    settings = settings_of(ContrastiveSeqRecommender(n_negatives=n_negatives, batch_size=N_USERS))
    objective = JointObjective(make_histories(N_USERS * N_STEPS, n_items, rng), settings)
    before = peak_rss_mib()
    seconds, log = seconds_of_steps(objective, n_items, settings, rng)
    return {
        "items": n_items,
        "softmax": "full" if n_negatives is None else f"{n_negatives} drawn",
        "seconds a step": float(np.median(seconds)),
        "epoch's end": max(0.0, log.seconds - float(np.sum(seconds)) - float(seconds[-1])),
        "peak MiB": peak_rss_mib(),
        "MiB before": before,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true", help="up to 100,000 items")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run(*options.case) | {"threads": torch.get_num_threads()}))
        return
    sizes = (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000)
    rows = [
        in_subprocess(__file__, "--case", json.dumps([n_items, n_negatives]))
        for n_negatives in (None, 2048)
        for n_items in sizes
    ]
    print_table(rows)
    if options.json:
        write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
