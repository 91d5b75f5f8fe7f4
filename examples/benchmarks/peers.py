r"""Speed, memory and processor time side by side with RecTools, RePlay, implicit and LensKit.

    python examples/benchmarks/peers.py --data ml-1m.parquet --threshold 4 \
        --rectools-python rectools/bin/python --replay-python replay/bin/python \
        --implicit-python implicit/bin/python --lenskit-python lenskit/bin/python \
        --json peers-ml-1m.json

Each peer lives in an environment of its own, and one that is not named is left out:

    python -m venv rectools && rectools/bin/pip install torch==2.13.0 "rectools[torch]" "pyarrow<24"
    python -m venv replay && replay/bin/pip install torch==2.13.0 "replay-rec[torch]" \
        openvino onnx onnxscript
    python -m venv implicit && implicit/bin/pip install implicit pandas pyarrow threadpoolctl
    python -m venv lenskit && lenskit/bin/pip install torch==2.13.0 lenskit pandas pyarrow

`--data` is a .csv or .parquet file of ratings; `--user-column`, `--item-column`, `--rating-column`
and `--time-column` name its columns. A rating from `--threshold` on is a like, and users with fewer
than two likes are left out. Each row is a process of its own on two threads. What a row does:

- RecTools, RePlay and "likes" train SASRec on the last 50 likes with the sizes of
  `peer_shared.SIZES`, Adam and a softmax over the whole catalogue, for `--epochs` epochs, otherwise
  as their documentation has it: no validation, no logs, no checkpoints. An epoch is the fastest
  after the first. `--fast-only` leaves the float32 rows out.
- Beside SASRec stands what this library is for: the two-encoder model, which also reads and learns
  from dislikes, the default objective at the same sizes but without a memory of items, and all
  defaults. They read all ratings of the same users. With `--whole-fit` all defaults are also fitted
  as they are, until early stopping ends the fit.
- implicit and LensKit do a job of their own, without order: factors of as many numbers, or items'
  neighbours, of all likes. Beside them stands this library's item-item model.

All then give ten items to every user, and to one history at a time. `fit_cpu_seconds` are the
seconds of the processor that the whole fit took, all threads together: its energy. It takes an
otherwise idle machine: where they are far below twice `fit_seconds` in a row of SASRec, something
else was running. A row that fails is named at the end, and the others are kept.

RePlay has every user's first item as a target as well if the history is short (read from padding),
so its count of targets is higher, by 1 % on MovieLens-1M; it pads all the same, as RecTools does,
to 50.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import print_table, write_json
from peer_shared import SIZES, THREADS, add_data_arguments, data_arguments, read_ratings

HERE = Path(__file__).parent
OURS, FULL, RECTOOLS, REPLAY = "posneg-rec", "two encoders", "RecTools", "RePlay"
WHOLE = "defaults, to the end"
IMPLICIT, LENSKIT = "implicit", "LensKit"
SEQUENCE_PEERS = (RECTOOLS, REPLAY)
RUNNERS = {
    OURS: "peer_posneg.py",
    RECTOOLS: "peer_rectools.py",
    REPLAY: "peer_replay.py",
    IMPLICIT: "peer_implicit.py",
    LENSKIT: "peer_lenskit.py",
}
# Library, what it trains, and in which number format, in the words of the library.
RUNS = [
    (OURS, "likes", "auto"),
    (OURS, "likes", "float32"),
    (RECTOOLS, "likes", "32-true"),
    (RECTOOLS, "likes", "bf16-mixed"),
    (REPLAY, "likes", "32-true"),
    (REPLAY, "likes", "bf16-mixed"),
    (OURS, FULL, "auto"),
    (OURS, FULL, "float32"),
    (OURS, "joint", "auto"),
    (OURS, "joint", "float32"),
    (OURS, "defaults", "auto"),
    (OURS, WHOLE, "auto"),
    # Where there is no choice of a format.
    (OURS, "item-item (EASE)", None),
    (IMPLICIT, "item-item (cosine)", None),
    (IMPLICIT, "ALS", None),
    (LENSKIT, "item-item (nearest)", None),
    (LENSKIT, "ALS", None),
]
FLOAT32 = ("float32", "32-true")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    for library in RUNNERS:
        if library != OURS:
            name = library.lower()
            parser.add_argument(f"--{name}-python", dest=library, metavar="PATH")
    parser.add_argument("--epochs", type=int, help="default: 3, with --quick 2")
    parser.add_argument("--fast-only", action="store_true", help="no float32 beside bfloat16")
    parser.add_argument(
        "--whole-fit", action="store_true", help="all defaults until early stopping, too"
    )
    parser.add_argument("--quick", action="store_true", help="943 users, few repeats")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    if args.quick:
        args.users = args.users or 943
    epochs = args.epochs or (2 if args.quick else 3)
    if epochs < 2:
        parser.error("--epochs must be 2 at least: the first one warms up.")
    data = describe(args)  # before anything runs: a wrong column or threshold ends it here
    pythons = {name: getattr(args, name, None) for name in RUNNERS} | {OURS: sys.executable}
    options = [*data_arguments(args), "--epochs", str(epochs)]
    options += ["--calls", "50" if args.quick else "200"]
    results, failed = [], []
    for library, variant, precision in RUNS:
        if not pythons[library] or (args.fast_only and precision in FLOAT32):
            continue
        if variant == WHOLE and not args.whole_fit:
            continue
        case = {"library": library, "variant": variant, "precision": precision}
        print(" ".join(filter(None, case.values())), end=" ... ", file=sys.stderr, flush=True)
        chosen = ["--variant", variant, *(["--precision", precision] if precision else [])]
        done = run(pythons[library], RUNNERS[library], [*options, *chosen])
        if done.returncode:
            failed.append({**case, "error": done.stderr})
            print(f"failed:\n{done.stderr}", file=sys.stderr)
        else:
            results.append({**case, **json.loads(done.stdout.splitlines()[-1])})
            print(f"a fit of {results[-1]['fit_seconds']:.3g} s", file=sys.stderr)
        if args.json:  # after each row, for a run that is ended early
            sizes = {**SIZES, "threads": THREADS, "epochs": epochs, "quick": args.quick}
            found = {"results": results, "ratios": ratios(results), "failed": failed}
            write_json(args.json, {"data": data, "sizes": sizes, **found})
    if results:
        print_table([row(result) for result in results])
    if ratios(results):
        print()
        print_table(ratios(results))
    if failed:
        names = (" ".join(filter(None, list(case.values())[:3])) for case in failed)
        sys.exit(f"{len(failed)} of {len(results) + len(failed)} failed: {'; '.join(names)}.")


def describe(args):
    """What the data holds, as all of the runners see it."""
    ratings = read_ratings(args)
    likes = ratings[ratings["rating"] >= args.threshold]
    return {
        "name": Path(args.data).stem,
        "threshold": args.threshold,
        "n_users": ratings["user_id"].nunique(),
        "n_ratings": len(ratings),
        "n_items": ratings["item_id"].nunique(),
        "n_likes": len(likes),
        "n_liked_items": likes["item_id"].nunique(),
    }


def run(python, script, options):
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "MKL", "OPENBLAS")}
    return subprocess.run(
        [python, str(HERE / script), *options],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
    )


def fastest_call(result):
    return min(result["calls"].items(), key=lambda call: call[1]["p50_ms"])


def fastest_epoch(result):
    return min(result["epoch_seconds"])


def row(result):
    """A result as a line of the table; of the ways to ask for one history, the fastest."""
    call, times = fastest_call(result)
    return {
        "library": result["library"],
        "variant": result["variant"],
        "precision": result["precision"] or "-",
        "targets": result.get("targets_per_epoch", "-"),
        "loss": result.get("loss", "-"),
        "epoch s": fastest_epoch(result) if "epoch_seconds" in result else "-",
        "fit s": result["fit_seconds"],
        "fit CPU s": result["fit_cpu_seconds"],
        "peak MiB": round(result["peak_mib"]),
        "all users s": result["all_seconds"],
        "places filled": f"{result['all_filled']:.0%}",
        "one p50 ms": times["p50_ms"],
        "one p95 ms": times["p95_ms"],
        "one by": call,
    }


def ratios(results):
    """How many times as much each peer of SASRec takes, each library at the best of its runs.

    None where one of the two is not among the results.
    """

    def best(library, variant, value, precisions=None):
        values = [
            value(result)
            for result in results
            if (result["library"], result["variant"]) == (library, variant)
            and (precisions is None or result["precision"] in precisions)
        ]
        return min(values, default=None)

    def times(peer, value, variant="likes", **options):
        theirs, ours = best(peer, "likes", value, **options), best(OURS, variant, value, **options)
        return None if theirs is None or ours is None else theirs / ours

    present = {result["library"] for result in results}
    return [
        {
            f"times {OURS}": peer,
            "epoch": times(peer, fastest_epoch),
            "epoch, float32": times(peer, fastest_epoch, precisions=FLOAT32),
            "epoch / two encoders": times(peer, fastest_epoch, FULL),
            "fit, CPU": times(peer, lambda result: result["fit_cpu_seconds"]),
            "peak memory": times(peer, lambda result: result["peak_mib"]),
            "all users": times(peer, lambda result: result["all_seconds"]),
            "all users / all defaults": times(
                peer, lambda result: result["all_seconds"], "defaults"
            ),
            "one history": times(peer, lambda result: fastest_call(result)[1]["p50_ms"]),
        }
        for peer in SEQUENCE_PEERS
        if peer in present
    ]


if __name__ == "__main__":
    main()
