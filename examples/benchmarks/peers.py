r"""Speed and memory side by side with RecTools and RePlay, on MovieLens-1M.

    python examples/benchmarks/peers.py --data ml-1m.parquet --rectools-python rectools/bin/python \
        --replay-python replay/bin/python --json peers.json

Each peer lives in an environment of its own:

    python -m venv rectools && rectools/bin/pip install torch==2.13.0 "rectools[torch]" "pyarrow<24"
    python -m venv replay && replay/bin/pip install torch==2.13.0 "replay-rec[torch]" \
        openvino onnx onnxscript

`--data` is a parquet file with the columns user_id, item_id, rating, timestamp; a rating from 4 on
is a like. All train SASRec on the last 50 likes with the sizes of `peer_shared.SIZES`, Adam and a
softmax over the whole catalogue, on two threads, otherwise as their documentation has it: no
validation, no logs, no checkpoints. Each row is a process of its own; an epoch is the fastest
after a warm-up. It takes an otherwise idle machine: where `fit_cpu_seconds` in the JSON is far
below twice `fit_seconds`, something else was running.

Beside SASRec stands what this library is for: the two-encoder model, which also reads and learns
from dislikes, the default objective at the same sizes but without a memory of items, and all
defaults.

RePlay has every user's first item as a target as well if the history is short (read from padding),
so its count of targets is 1 % higher; it pads all the same, as RecTools does, to 50.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import print_table, write_json
from peer_shared import SIZES, THREADS

HERE = Path(__file__).parent
OURS, FULL, RECTOOLS, REPLAY = "posneg-rec", "two encoders", "RecTools", "RePlay"
RUNNERS = {OURS: "peer_posneg.py", RECTOOLS: "peer_rectools.py", REPLAY: "peer_replay.py"}
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
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", required=True)
    parser.add_argument("--rectools-python", metavar="PATH")
    parser.add_argument("--replay-python", metavar="PATH")
    parser.add_argument("--quick", action="store_true", help="943 users, few repeats")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    pythons = {OURS: sys.executable, RECTOOLS: args.rectools_python, REPLAY: args.replay_python}
    options = ["--data", args.data, "--epochs", "3", "--calls", "200"]
    if args.quick:
        options = ["--data", args.data, "--epochs", "2", "--calls", "50", "--users", "943"]
    results = []
    for library, variant, precision in RUNS:
        if pythons[library]:
            print(f"{library}, {variant}, {precision}", end=" ... ", file=sys.stderr, flush=True)
            options_of_run = [*options, "--variant", variant, "--precision", precision]
            result = run(pythons[library], RUNNERS[library], options_of_run)
            case = {"library": library, "variant": variant, "precision": precision}
            results.append({**case, **result})
            print(f"{min(result['epoch_seconds']):.3g} s an epoch", file=sys.stderr)
    print_table([row(result) for result in results])
    print()
    ratios = [ratio(results, peer) for peer in (RECTOOLS, REPLAY) if pythons[peer]]
    if ratios:
        print_table(ratios)
    if args.json:
        sizes = {**SIZES, "threads": THREADS, "quick": args.quick}
        write_json(args.json, {"sizes": sizes, "results": results, "ratios": ratios})


def run(python, script, options):
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [python, str(HERE / script), *options],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(options)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def fastest_call(result):
    return min(result["calls"].items(), key=lambda call: call[1]["p50_ms"])


def row(result):
    """A result as a line of the table; of the ways to ask for one history, the fastest."""
    call, times = fastest_call(result)
    return {
        **{name: result[name] for name in ("library", "variant", "precision")},
        "targets": result.get("targets_per_epoch", ""),
        "loss": result["loss"],
        "epoch s": min(result["epoch_seconds"]),
        "peak MiB": round(result["peak_mib"]),
        "all users s": result["all_seconds"],
        "one p50 ms": times["p50_ms"],
        "one p95 ms": times["p95_ms"],
        "one by": call,
    }


def ratio(results, peer):
    """How many times as much a peer takes, each library at the best of its runs."""

    def best(library, variant, value, precisions=("auto", "float32", "32-true", "bf16-mixed")):
        return min(
            value(result)
            for result in results
            if (result["library"], result["variant"]) == (library, variant)
            and result["precision"] in precisions
        )

    def epoch(result):
        return min(result["epoch_seconds"])

    def times(value, **options):
        return best(peer, "likes", value, **options) / best(OURS, "likes", value, **options)

    return {
        f"times {OURS}": peer,
        "epoch": times(epoch),
        "epoch, float32": times(epoch, precisions=("float32", "32-true")),
        "epoch / two encoders": best(peer, "likes", epoch) / best(OURS, FULL, epoch),
        "peak memory": times(lambda result: result["peak_mib"]),
        "all users": times(lambda result: result["all_seconds"]),
        "one history": times(lambda result: fastest_call(result)[1]["p50_ms"]),
    }


if __name__ == "__main__":
    main()
