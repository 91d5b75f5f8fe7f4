"""From a parquet file that memory has no room for to a fitted model: time and memory by stage.

    python examples/benchmarks/beyond_memory.py --rows 100_000_000 --json beyond_memory.json

generates ratings in random order, makes a store of them and fits a small model to it for one epoch.
Each stage is a process of its own on one thread, so that its peak memory is its own: all of it
(VmHWM) and, of that, what is no page of a file, which the system could drop (RssAnon). What they
take before the first row, imports for the most part, is the first line.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from common import in_subprocess, peak_rss_mib, print_table, write_json

BATCH = 2**20
STAGES = ("start", "generate", "build", "open_store", "fit")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=1_000_000)
    parser.add_argument("--rows-per-user", type=int, default=100)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--objective", choices=["joint", "pnfrec"], default="joint")
    parser.add_argument("--embedding-dim", type=int, default=16)
    parser.add_argument("--max-len", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--item-memory", action="store_true", help="which grows with the items")
    parser.add_argument("--folder", help="where to write; by default a temporary folder")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # of a subprocess
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(measured(args.stage, args)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    results = []
    try:
        for stage in STAGES:
            given = [*sys.argv[1:], "--folder", folder, "--stage", stage]
            results.append(in_subprocess(__file__, *given))
            print(results[-1], flush=True)
    finally:
        shutil.rmtree(folder)
    print()
    print_table(results)
    if args.json:
        write_json(args.json, {"sizes": vars(args), "stages": results})


class PeakOfAnonymous(threading.Thread):
    """Looks now and then how much of this process' memory is no page of a file."""

    def __init__(self):
        super().__init__(daemon=True)
        self.mib, self.ended = 0.0, threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            self.mib = max(self.mib, status("RssAnon"))


def status(name):
    """A figure of the system on this process, in MiB; 0 where there is none."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if name in line) / 2**10
    except (OSError, StopIteration):
        return 0.0


def measured(stage, args):
    watch = PeakOfAnonymous()
    watch.start()
    start = time.perf_counter()
    facts = globals()[stage](args)
    seconds = time.perf_counter() - start
    watch.ended.set()
    watch.join()
    return {
        "stage": stage,
        "seconds": seconds,
        "rows a second": args.rows / seconds if stage != "start" else 0.0,
        "peak MiB": peak_rss_mib(),
        "anonymous MiB": watch.mib,
        "on disk MiB": on_disk(args.folder),
        **facts,
    }


def on_disk(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20


def start(args):
    """Import what a fit imports."""
    import posneg_rec.store
    import posneg_rec.training  # noqa: F401

    return {"told": ""}


def generate(args):
    """Write ratings in random order, a few items with much of them."""
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    n_users = max(2, args.rows // args.rows_per_user)
    types = {"user_id": pa.int64(), "item_id": pa.int32(), "time": pa.int64(), "rating": pa.int8()}
    schema = pa.schema(types)
    with parquet.ParquetWriter(Path(args.folder) / "rows.parquet", schema) as writer:
        for first in range(0, args.rows, BATCH):
            n = min(BATCH, args.rows - first)
            columns = [
                rng.integers(n_users, size=n) * 1_000 + 7,
                (args.items * rng.random(n) ** 3).astype(np.int32),
                rng.integers(0, 500_000_000, size=n),
                rng.integers(1, 6, size=n, dtype=np.int8),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return {"told": f"{n_users} users, {args.items} items"}


def build(args):
    from posneg_rec.store import InteractionStore

    folder = Path(args.folder)
    store = InteractionStore.build(
        folder / "store", folder / "rows.parquet", feedback="rating", positive_threshold=4
    )
    (folder / "rows.parquet").unlink()
    return {"told": f"{store.n_events} events"}


def open_store(args):
    from posneg_rec.store import InteractionStore

    return {"told": repr(InteractionStore(Path(args.folder) / "store"))[:30]}


def fit(args):
    from posneg_rec import ContrastiveSeqRecommender
    from posneg_rec.store import InteractionStore

    model = ContrastiveSeqRecommender(
        objective=args.objective,
        positive_threshold=4,
        embedding_dim=args.embedding_dim,
        n_layers=1,
        n_heads=1,
        max_len=args.max_len,
        n_negatives=args.negatives,
        batch_size=args.batch_size,
        max_epochs=1,
        item_memory=args.item_memory,
        precision="float32",
        random_state=0,
    )
    model.fit(InteractionStore(Path(args.folder) / "store"))
    epoch = model.history_["seconds"][0]
    return {"told": f"{epoch:.0f} s in the epoch, loss {model.history_['loss'][0]:.2f}"}


if __name__ == "__main__":
    main()
