"""One fit in one process and in several, and what a step would send for how many items.

    python examples/benchmarks/processes.py --json processes.json

Each process has one thread; the batch is that of all of them. What is timed is an epoch, the best
of some runs, one and several processes in turn, so that what else runs on the machine slows both.
"""

import argparse
import os
import tempfile
import warnings

import numpy as np
from common import print_table, write_json

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--events", type=int, default=50, help="of each user")
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--embedding-dim", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=2_048)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    measured = []
    for n_items in args.items:
        for negatives in (None, args.negatives) if n_items < 50_000 else (args.negatives,):
            measured += compared(args, n_items, negatives)
    print_table(measured)
    sent = [traffic(args, n) for n in (1_000, 100_000, 10_000_000, 100_000_000)]
    print()
    print_table(sent)
    if args.json:
        write_json(args.json, {"sizes": vars(args), "epochs": measured, "a step sends": sent})


def compared(args, n_items, negatives):
    """Time an epoch with each number of processes, in turn."""
    seconds = {n: [] for n in args.processes}
    for _ in range(args.repeats):
        for n in args.processes:
            seconds[n].append(epoch(n, args, n_items, negatives))
    first = min(seconds[args.processes[0]])
    return [
        {
            "items": n_items,
            "n_negatives": negatives or "-",
            "processes": n,
            "seconds": min(runs),
            "events a second": args.users * args.events / min(runs),
            "times as fast": first / min(runs),
        }
        for n, runs in seconds.items()
    ]


def epoch(n_processes, args, n_items, negatives):
    from torch import multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(
            process, (n_processes, folder, args, n_items, negatives), nprocs=n_processes
        )
        with open(f"{folder}/seconds") as file:
            return float(file.read())


def process(rank, n_processes, folder, args, n_items, negatives):
    """Fit as one of some processes; the first writes down how long the second epoch took."""
    import torch
    from torch import distributed

    from posneg_rec import ContrastiveSeqRecommender

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    if n_processes > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=n_processes
        )
    rng = np.random.default_rng(0)
    n = args.users * args.events
    rows = np.column_stack(
        [
            np.repeat(np.arange(args.users), args.events),
            (n_items * rng.random(n) ** 2).astype(np.int64),
            np.arange(n),
        ]
    )
    model = ContrastiveSeqRecommender(
        embedding_dim=args.embedding_dim,
        batch_size=args.batch_size,
        n_negatives=negatives,
        max_len=args.events,
        max_epochs=2,  # the first makes ready what is made once
        early_stopping=False,
        item_memory=False,
        precision="float32",
        device="cpu",
        random_state=0,
    )
    model.fit(rows, rng.integers(0, 2, n))
    if rank == 0:
        with open(f"{folder}/seconds", "w") as file:
            file.write(str(model.history_["seconds"][1]))
    if n_processes > 1:
        distributed.destroy_process_group()


def traffic(args, n_items):
    """Tell, on paper, how many bytes a process hands on in a step, of the items alone."""
    row = 4 * (args.embedding_dim + 1)  # float32, the vector and the taste
    touched = min(n_items, args.batch_size * args.events + args.negatives)
    return {
        "items": n_items,
        "whole catalogue, MB": n_items * row / 1e6,
        "n_negatives, at most MB": touched * (row + 8) / 1e6,  # and which item it is
        "memory of the items, GB": 4 * n_items * row / 1e9,  # two moments and an average
    }


if __name__ == "__main__":
    main()
