"""The same work on a CUDA device: steps, a fit of MovieLens-1M, and answers for a million users.

    python examples/benchmarks/gpu.py [--data ml-1m.parquet] [--json FILE] [--quick]

- ``steps``: an epoch of the published settings (``training_step.py``'s data, 12 steps of 500 users)
  and of the defaults (94 steps of 64 users), the third, with steps as they are and recorded;
  "share" is of the matrix ceiling, the rate of one large bfloat16 product.
- ``fits`` (with --data): the paper's split of MovieLens-1M, from the frame to the best epoch,
  validation included, after an epoch that loads CUDA's libraries.
- ``answers``: the ten best of 100,000 items for 1,000,000 users with 100 events each, random
  weights of the default sizes, from histories in memory to arrays; the second of two runs. Then
  for a hundredth of the users with the memory of items beside the transformer.
"""

import argparse
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from common import print_table, write_json
from serving import memory_of
from training_step import N_ITEMS, make_histories, n_tokens, settings_of, sides

sys.path.append(str(Path(__file__).parent.parent))

from paper_protocol import COLUMNS, paper_split, read_ratings
from sklearn.base import clone

from posneg_rec import ContrastiveSeqRecommender, training
from posneg_rec.accelerated import AcceleratedScorer
from posneg_rec.inference import JointModel
from posneg_rec.memory import WeighedMemory
from posneg_rec.nn import JointEncoder
from posneg_rec.objectives import JointObjective, PNFRecObjective
from posneg_rec.queries import Inputs, Queries
from posneg_rec.recommender import PNFREC
from posneg_rec.scoring import Scorer
from posneg_rec.sequences import PackedSequences
from posneg_rec.training import train

KINDS = {"PNFRec, published": (PNFREC, PNFRecObjective), "defaults": ({}, JointObjective)}


def seconds_of(function):
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def ceiling(size=8192, repeat=20):
    """TFLOP/s of a large bfloat16 product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds, _ = seconds_of(lambda: [a @ b for _ in range(repeat)])
    return 2 * size**3 * repeat / seconds / 1e12


def work_of_epoch(objective):
    """Events that an epoch reads to predict the next, and the operations of its products."""
    settings, joint = objective.settings, isinstance(objective, JointObjective)
    # What is read, and the widths of a block's products in d.
    sequences, widths = ([objective.histories], 8) if joint else (sides(objective), 6)
    read = sum(n_tokens(one, settings.max_len) for one in sequences)
    # Two operations a number, three products a layer: its own and those of two gradients.
    dim = settings.embedding_dim
    return read, 6 * read * dim * (settings.n_layers * widths * dim + N_ITEMS)


def steps(n_users, teraflops):
    rows = []
    for (label, (params, kind)), recorded in product(KINDS.items(), (False, True)):
        epochs = {"max_epochs": 3, "device": "cuda", "early_stopping": False}
        settings = settings_of(ContrastiveSeqRecommender(**params | epochs))
        objective = kind(make_histories(n_users, np.random.default_rng(0)), settings)
        torch.cuda.reset_peak_memory_stats()
        with patch.object(training, "_records", lambda *given, on=recorded: on):
            _, log = train(objective, N_ITEMS, settings, rng=np.random.default_rng(0))
        read, operations = work_of_epoch(objective)
        seconds = log[-1].seconds
        rows.append(
            {
                "model": label,
                "recorded": "yes" if recorded else "no",
                "ms a step": 1e3 * seconds / -(-n_users // settings.batch_size),
                "million tokens/s": read / seconds / 1e6,
                "TFLOP/s": operations / seconds / 1e12,
                "share": operations / seconds / 1e12 / teraflops,
                "peak MiB": torch.cuda.max_memory_allocated() / 2**20,
            }
        )
    return rows


def fits(path):
    table = read_ratings(path)
    split = paper_split(table[COLUMNS], table["rating"], positive_threshold=4)
    rows = []
    for label, (params, _) in KINDS.items():
        model = ContrastiveSeqRecommender(**params, positive_threshold=4, random_state=0)
        clone(model).set_params(max_epochs=1).fit(*split.train)
        seconds, _ = seconds_of(partial(model.fit, *split.train))
        scores, epochs = model.history_["validation_score"], model.history_["seconds"]
        best = int(np.argmax(scores)) + 1
        before = seconds - sum(epochs)
        rows.append(
            {
                "model": label,
                "seconds to the best epoch": before + sum(epochs[:best]),
                "seconds of the fit": seconds,
                "best epoch": best,
                "seconds an epoch": float(np.median(epochs)),
                "validation NDCG@10": max(scores),
            }
        )
    return rows


def asked_of(n_items, n_events, *, with_memory):
    """What a scorer of the default sizes takes, and a function that makes so many queries."""
    rng = np.random.default_rng(0)
    module = JointEncoder(
        n_items,
        128,
        n_layers=2,
        n_heads=2,
        max_len=n_events,
        dropout=0.0,
        shows_latest=False,
        generator=torch.Generator().manual_seed(0),
    )
    model = JointModel({name: p.detach().numpy() for name, p in module.named_parameters()}, 2)
    counts = np.ones(n_items, dtype=np.int64)
    asking = {
        "model": model,
        "likes": counts,
        "dislikes": counts,
        "aversion": 5.0,
        "memory": WeighedMemory(memory_of(n_items, rng)) if with_memory else None,
    }

    def queries(n):
        offsets = np.arange(0, n * n_events + 1, n_events)
        items = rng.integers(n_items, size=n * n_events)
        signs = rng.integers(-1, 2, size=len(items), dtype=np.int8)
        no_times = np.zeros_like(items), np.full(len(items), np.nan)
        inputs = Inputs(items, signs, *no_times, offsets)
        return Queries(inputs, np.arange(n), PackedSequences(items, offsets), signs)

    return asking, queries


def answers(n_users, n_items, n_events=100, k=10, *, with_memory):
    asking, queries = asked_of(n_items, n_events, with_memory=with_memory)
    few = queries(200)
    fast, plain = (kind(queries=few, **asking) for kind in (AcceleratedScorer, Scorer))
    found, expected = fast.top_k(k), plain.top_k(k)
    agreement = float((found[0] == expected[0]).mean())
    asked = queries(n_users)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        encoding, scorer = seconds_of(lambda: AcceleratedScorer(queries=asked, **asking))
        scoring, _ = seconds_of(partial(scorer.top_k, k))
    return [
        {
            "users": n_users,
            "items": n_items,
            "memory": "yes" if with_memory else "no",
            "seconds to encode": encoding,
            "seconds to score": scoring,
            "peak MiB": torch.cuda.max_memory_allocated() / 2**20,
            "places as on the CPU": agreement,
        }
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--data", metavar="FILE", help="ratings of MovieLens-1M, to fit them")
    parser.add_argument("--quick", action="store_true", help="fewer users")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA device, and torch sees none.")
    teraflops = ceiling()
    print(f"{torch.cuda.get_device_name()}: {teraflops:.0f} TFLOP/s in bfloat16")
    results = {
        "device": torch.cuda.get_device_name(),
        "bfloat16 TFLOP/s": teraflops,
        "steps": steps(2000 if options.quick else 6000, teraflops),
    }
    print_table(results["steps"])
    if options.data:
        results["fits"] = fits(options.data)
        print_table(results["fits"])
    n_users = 10_000 if options.quick else 1_000_000
    # The memory is read on the host, which takes so much longer that fewer users tell.
    results["answers"] = [
        *answers(n_users, 100_000, with_memory=False),
        *answers(n_users // 100, 100_000, with_memory=True),
    ]
    print_table(results["answers"])
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
