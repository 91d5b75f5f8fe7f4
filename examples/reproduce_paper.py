"""Reproduce the comparison of "Benefiting from Negative yet Informative Feedback" (RecSys 2025).

One command fits every method, ranks the held-out events and writes tables; it takes pandas, and
pyarrow for parquet::

    python examples/reproduce_paper.py --data ml-1m.parquet --threshold 4 --jobs 2

``--quick`` makes smaller models with one seed: a few minutes on MovieLens-100K. The file has the
columns user, item, rating and time (or user_id, item_id, rating and timestamp). Each method and
seed is one fit, and leaves one .npz file with the rank of every target; a file that exists is not
made again, so that the command can be stopped and goes on where it was. ``--methods`` also takes
the default with one part taken away (``baselines.ABLATIONS``) and what was tried before
(``baselines.TRIALS``). ``report.json`` and ``report.md`` are made from these files alone
(``--report-only``), and ``--docs FILE`` puts the tables between the markers
``<!-- results:NAME -->`` and ``<!-- /results:NAME -->`` of a page; a name is that of the folder, a
slash and the table's.

Protocols (see ``paper_protocol.py`` for the split):

P0             the last event of each test user, as in the paper
P1             every held-out event of the test users, from all events before it
P2             P0 on both halves of the held-out users
P1-strict      P1, but from the events of an earlier time only: events at one time share a history
P1-validation  P1 on the validation users, for choices that must not touch the test users
"""

import argparse
import copy
import hashlib
import importlib.metadata
import json
import os
import re
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import baselines
import joblib
import numpy as np
from paper_protocol import COLUMNS, paper_split, read_ratings

import posneg_rec
from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.metrics import TargetRanks, compare, summarize

METHODS = baselines.METHODS | baselines.ABLATIONS | baselines.TRIALS
PROTOCOLS = {
    "P0": "the last event of each test user",
    "P1": "every held-out event of the test users",
    "P2": "the last event of each held-out user, test and validation",
    "P1-strict": "every held-out event of the test users, from events of an earlier time only",
    "P1-validation": "every held-out event of the validation users",
}
AVERSIONS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # and the model's own
# What every method is compared with.
REFERENCES = (
    "default",
    "likes-only",
    "likes-only-tuned",
    "likes-only-random-tuned",
    "full-tuned",
)
# Replaces these settings of every method that has epochs.
QUICK = {
    "embedding_dim": 64,
    "batch_size": 64,  # on 943 users a larger batch would leave few steps in an epoch
    "max_epochs": 30,
    "n_iter_no_change": 5,
}
# Of every method: where users come back to what they met, too, unseen items alone are ranked.
PROTOCOL = {"exclude_seen": True}
# Not among a method's settings: its fit gets the threshold and the seed.
GIVEN_BY_FIT = ("positive_threshold", "random_state")
METRICS = {
    "HR_p": "hit_rate_liked",
    "NDCG_p": "ndcg_liked",
    "HR_n": "hit_rate_disliked",
    "NDCG_n": "ndcg_disliked",
    "dHR": "hit_rate_delta",
    "dNDCG": "ndcg_delta",
}
N_BOOTSTRAPS = 2000
# The paper's figures on MovieLens-1M: mean and standard deviation of five runs, P0.
PUBLISHED = {
    "full": {
        "HR_p": (0.1716, 0.0083),
        "NDCG_p": (0.1041, 0.0026),
        "dHR": (0.0724, 0.0152),
        "dNDCG": (0.0484, 0.0055),
    },
    "pn": {
        "HR_p": (0.1677, 0.0131),
        "NDCG_p": (0.1024, 0.0069),
        "dHR": (0.0644, 0.0148),
        "dNDCG": (0.0467, 0.0068),
    },
    "pc": {
        "HR_p": (0.1612, 0.0022),
        "NDCG_p": (0.0921, 0.0047),
        "dHR": (0.0760, 0.0109),
        "dNDCG": (0.0435, 0.0047),
    },
    "likes-only": {
        "HR_p": (0.1587, 0.0112),
        "NDCG_p": (0.0935, 0.0086),
        "dHR": (0.0726, 0.0170),
        "dNDCG": (0.0449, 0.0052),
    },
    "session-contrast": {
        "HR_p": (0.1638, 0.0083),
        "NDCG_p": (0.0892, 0.0053),
        "dHR": (-0.0213, 0.0044),
        "dNDCG": (-0.0174, 0.0036),
    },
    "no-signs": {
        "HR_p": (0.1683, 0.0089),
        "NDCG_p": (0.0927, 0.0034),
        "dHR": (-0.0160, 0.0061),
        "dNDCG": (-0.0116, 0.0064),
    },
}
PUBLISHED |= {f"{method}-tuned": PUBLISHED[method] for method in ("full", "likes-only")}
PUBLISHED_ROWS = 999_611  # of MovieLens-1M after the frequency filter: the figures are for these


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", required=True, help="ratings, .csv or .parquet")
    parser.add_argument("--threshold", type=float, default=4, help="a rating from here is a like")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(baselines.METHODS))
    parser.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, default=["P0", "P1", "P2", "P1-strict"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2, with --quick 0")
    parser.add_argument("--out", metavar="DIR", help="default: results/ and the data's name")
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer epochs")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time, of one thread each")
    parser.add_argument("--report-only", action="store_true", help="fit nothing")
    parser.add_argument("--docs", metavar="FILE", help="page whose tables to replace")
    args = parser.parse_args(arguments)

    out = Path(args.out or f"results/{Path(args.data).stem}{'-quick' if args.quick else ''}")
    out.mkdir(parents=True, exist_ok=True)
    n_failed = 0 if args.report_only else run(args, out)
    report = make_report(out, args.methods, args.protocols)
    with open(out / "report.json", "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    tables = make_tables(report)
    (out / "report.md").write_text(as_markdown(report, tables))
    print(f"{out / 'report.md'} and report.json are written.")
    if args.docs:
        replace_tables(Path(args.docs), tables)
    if n_failed:
        raise SystemExit(f"{n_failed} fits failed.")


# -- First stage: fits and ranks -------------------------------------------------------------


def run(args: argparse.Namespace, out: Path) -> int:
    """Make the files that are missing; return how many could not be made."""
    seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
    wanted = [
        (method, seed)
        for seed in seeds
        for method in args.methods
        if METHODS[method].is_random or seed == seeds[0]
    ]
    missing = [task for task in wanted if not is_made(out, *task, args)]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} fits are there already.", flush=True)
    tasks = (
        joblib.delayed(run_one)(method, seed, args, out, f"[{number}/{len(missing)}]")
        for number, (method, seed) in enumerate(missing, 1)
    )
    if args.jobs == 1:
        made = [function(*positional) for function, positional, _ in tasks]
    else:
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            made = joblib.Parallel(args.jobs, batch_size=1, pre_dispatch=args.jobs)(tasks)
    return made.count(False)


def settings_of(method: str, quick: bool) -> dict:
    """All settings that a method runs with, defaults included."""
    settings = dict(METHODS[method].settings)
    if not METHODS[method].is_random:
        return settings
    settings |= PROTOCOL | (QUICK if quick else {})
    return ContrastiveSeqRecommender(**settings).get_params()


def path_of(out: Path, method: str, seed: int) -> Path:
    return out / f"{method}-{seed}.npz"


def is_made(out: Path, method: str, seed: int, args: argparse.Namespace) -> bool:
    """Tell whether a fit's file holds what the protocols need."""
    path = path_of(out, method, seed)
    if not path.exists():
        return False
    meta, arrays = read(path)
    asked = {"settings": settings_of(method, args.quick), "threshold": args.threshold}
    # Through JSON, as the file's own went.
    if json.loads(json.dumps(asked)) != {key: meta[key] for key in asked}:
        raise SystemExit(
            f"{path} was made with other settings. Remove it, or choose another --out."
        )
    return all(f"{part}_ranks" in arrays for part in parts_of(args.protocols))


def parts_of(protocols: list[str]) -> dict[str, None]:
    """Name the sets of targets to rank, an ordered set."""
    needs = {"P2": "other", "P1-strict": "strict", "P1-validation": "validation"}
    return {"test": None} | {needs[name]: None for name in protocols if name in needs}


def run_one(method: str, seed: int, args: argparse.Namespace, out: Path, progress: str) -> bool:
    """Fit a method with a seed, rank all targets, write the file; False if that failed."""
    code = code_digest()
    table = read_ratings(args.data)
    split_of = partial(
        paper_split,
        table[COLUMNS],
        table["rating"],
        positive_threshold=args.threshold,
    )
    split = split_of()
    settings = settings_of(method, args.quick)
    own = {name: settings[name] for name in settings if name not in GIVEN_BY_FIT}
    clocks = [time.perf_counter(), time.process_time()]
    try:
        model = METHODS[method].fit(*split.train, args.threshold, seed, own)
    except Exception:  # hours of other fits are not to be lost
        print(f"{progress} {method}, seed {seed} failed:\n{traceback.format_exc()}", flush=True)
        return False
    seconds, cpu_seconds = time.perf_counter() - clocks[0], time.process_time() - clocks[1]

    start = time.perf_counter()
    arrays = rank_part("test", model, split.test, split.test.successive)
    rank_seconds = time.perf_counter() - start
    arrays["test_last"] = split.test.last[split.test.successive]
    parts = parts_of(args.protocols)
    if "strict" in parts:
        arrays["strict_ranks"] = strict_ranks(model, split.test, arrays["test_ranks"])
    if "validation" in parts:
        validation = split.validation
        arrays |= rank_part("validation", model, validation, validation.successive)
    if "other" in parts:
        other = split_of(swap_halves=True).test
        arrays |= rank_part("other", model, other, other.last)
    aversion = model.dislike_aversion if METHODS[method].sweeps else None
    if aversion is not None:
        arrays["aversions"] = np.unique([*AVERSIONS, aversion])
        arrays["aversion_ranks"] = aversion_ranks(
            model, split.test, arrays["aversions"], arrays["test_ranks"]
        )

    history = model.history_
    scores = [] if history is None else history["validation_score"]
    meta = {
        "method": method,
        "seed": seed,
        "threshold": args.threshold,
        "settings": settings,
        "dislike_aversion": aversion,
        "n_items": split.train[0]["item"].nunique(),
        "counts": split.counts,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rank_seconds": rank_seconds,
        "n_epochs": 0 if history is None else len(history["epoch"]),
        "best_epoch": None if not scores or None in scores else int(np.argmax(scores)) + 1,
        "history": history,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "code": code,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("posneg-rec", "numpy", "scikit-learn", "torch")
        },
    }
    # Written beside and renamed: a file is there whole or not at all.
    path = path_of(out, method, seed)
    with open(path.with_suffix(".part"), "wb") as file:
        np.savez_compressed(file, meta=json.dumps(meta), **arrays)
    path.with_suffix(".part").replace(path)
    print(
        f"{progress} {method}, seed {seed}: {meta['n_epochs']} epochs (best "
        f"{meta['best_epoch']}) in {seconds:.0f} s; {len(arrays['test_ranks']):,} targets ranked "
        f"in {rank_seconds:.0f} s",
        flush=True,
    )
    return True


def code_digest() -> str:
    """Name the code of the library and of the baselines, to tell results of different states."""
    files = [*sorted(Path(posneg_rec.__file__).parent.glob("*.py")), Path(baselines.__file__)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def rank_part(name: str, model, part, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Rank some rows of a part, as arrays for the file."""
    ranks = model.target_ranks(part.interactions, part.feedback, targets=targets)
    users = ranks.users if ranks.users.dtype.kind in "iu" else ranks.users.astype(str)
    return {
        f"{name}_users": users,
        f"{name}_rows": ranks.rows,
        f"{name}_signs": ranks.signs,
        f"{name}_ranks": ranks.ranks,
    }


def aversion_ranks(model, part, aversions: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Rank the held-out events of a part at each aversion; `ranks` are at the model's own."""
    rows = []
    for aversion in aversions.tolist():
        if aversion != model.dislike_aversion:
            other = copy.copy(model).set_params(dislike_aversion=aversion)
            rows.append(rank_part("test", other, part, part.successive)["test_ranks"])
        else:
            rows.append(ranks)
    return np.stack(rows)


def strict_ranks(model, part, ranks: np.ndarray, max_rows: int = 2_000_000) -> np.ndarray:
    """Rank the held-out events of a part from events of an earlier time only.

    `ranks` are from all events before. They hold for the first event of each time; every other
    one becomes the last row of a history of its own, with what came before the first.
    """
    table = part.interactions
    user, when = table["user"].to_numpy(), table["time"].to_numpy()
    row = np.arange(len(table))
    starts = np.append(True, user[1:] != user[:-1])
    first_of_time = np.append(True, when[1:] != when[:-1]) | starts
    user_start = np.maximum.accumulate(np.where(starts, row, 0))
    time_start = np.maximum.accumulate(np.where(first_of_time, row, 0))
    tied = np.flatnonzero(part.successive & ~first_of_time)
    lengths = time_start[tied] - user_start[tied] + 1

    strict = ranks.copy()
    place = np.cumsum(part.successive) - 1
    for chunk in np.split(np.arange(len(tied)), cuts(lengths, max_rows)):
        if len(chunk) == 0:
            continue
        ends = np.cumsum(lengths[chunk])
        history = np.repeat(np.arange(len(chunk)), lengths[chunk])
        rows = (
            np.arange(ends[-1])
            - (ends - lengths[chunk])[history]
            + user_start[tied[chunk]][history]
        )
        rows[ends - 1] = tied[chunk]
        targets = np.zeros(len(rows), dtype=bool)
        targets[ends - 1] = True
        alone = table.iloc[rows].assign(user=history)
        found = model.target_ranks(alone, part.feedback[rows], targets=targets)
        strict[place[tied[chunk]]] = found.ranks
    return strict


def cuts(lengths: np.ndarray, max_total: int) -> np.ndarray:
    """Where to cut a list of lengths so that the pieces sum to about `max_total`."""
    return np.flatnonzero(np.diff(np.cumsum(lengths) // max_total)) + 1


# -- Second stage: tables from the files alone -----------------------------------------------


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def make_report(out: Path, methods: list[str], protocols: list[str]) -> dict:
    """Evaluate what the files of a folder hold."""
    runs = {
        method: [read(path) for path in sorted(out.glob(f"{method}-[0-9]*.npz"))]
        for method in methods
    }
    runs = {method: files for method, files in runs.items() if files}
    if not runs:
        raise SystemExit(f"{out} has no results of {', '.join(methods)}.")
    first = next(iter(runs.values()))[0][0]
    report = {
        "name": out.name,
        "threshold": first["threshold"],
        "counts": first["counts"] | {"train_items": first["n_items"]},
        "n_bootstraps": N_BOOTSTRAPS,
        "methods": {
            method: {
                "label": METHODS[method].label,
                "seeds": [meta["seed"] for meta, _ in files],
                "settings": files[0][0]["settings"],
                "dislike_aversion": files[0][0]["dislike_aversion"],
                "threads": files[0][0]["threads"],
                "code": sorted({meta["code"] for meta, _ in files}),
                "versions": files[0][0]["versions"],
                "chosen": METHODS[method].chosen,
                "cost": {
                    key: [meta[key] for meta, _ in files]
                    for key in ("seconds", "cpu_seconds", "rank_seconds", "n_epochs", "best_epoch")
                },
            }
            for method, files in runs.items()
        },
        "published": PUBLISHED if first["counts"]["rows"] == PUBLISHED_ROWS else {},
        "protocols": {},
        "aversions": {},
    }
    for protocol in protocols:
        ranks = {
            method: found
            for method, files in runs.items()
            if all(found := [protocol_ranks(protocol, *file) for file in files])
        }
        if not ranks:
            continue
        bootstrap = {"n_bootstraps": N_BOOTSTRAPS, "random_state": 0}
        report["protocols"][protocol] = {
            "values": {
                method: summarize(found, **bootstrap).to_dict() for method, found in ranks.items()
            },
            "differences": {
                reference: {
                    method: compare(found, ranks[reference], **bootstrap).to_dict()
                    for method, found in ranks.items()
                    if method != reference
                }
                for reference in REFERENCES
                if reference in ranks
            },
        }
    for method, files in runs.items():
        if all("aversions" in arrays for _, arrays in files):
            report["aversions"][method] = {
                str(aversion): summarize(
                    [
                        replace(
                            protocol_ranks("P1", meta, arrays),
                            ranks=arrays["aversion_ranks"][index],
                        )
                        for meta, arrays in files
                    ],
                    n_bootstraps=N_BOOTSTRAPS,
                    random_state=0,
                ).to_dict()
                for index, aversion in enumerate(files[0][1]["aversions"].tolist())
            }
    return report


def protocol_ranks(protocol: str, meta: dict, arrays: dict[str, np.ndarray]) -> TargetRanks | None:
    """Take the targets of a protocol from a file; None if it does not hold them."""

    def part(name: str) -> TargetRanks:
        columns = (arrays[f"{name}_{field}"] for field in ("users", "rows", "signs", "ranks"))
        return TargetRanks(*columns, n_items=meta["n_items"])

    if not all(f"{name}_ranks" in arrays for name in parts_of([protocol])):
        return None
    if protocol == "P1-validation":
        return part("validation")
    test = part("test")
    if protocol == "P1":
        return test
    if protocol == "P1-strict":
        return replace(test, ranks=arrays["strict_ranks"])
    last = arrays["test_last"]
    test = TargetRanks(
        test.users[last], test.rows[last], test.signs[last], test.ranks[last], test.n_items
    )
    if protocol == "P0":
        return test
    other = part("other")
    return TargetRanks(
        np.append(test.users, other.users),
        np.append(test.rows, other.rows + test.rows.max() + 1),  # rows of another table
        np.append(test.signs, other.signs),
        np.append(test.ranks, other.ranks),
        test.n_items,
    )


def make_tables(report: dict) -> dict[str, str]:
    """All tables in Markdown; each name is the folder's, a slash and the table's."""
    methods = report["methods"]
    tables = {}
    for protocol, results in report["protocols"].items():
        values = results["values"]
        rows = [
            [methods[method]["label"], *(value_cell(evaluation, key) for key in METRICS.values())]
            for method, evaluation in values.items()
        ]
        tables[protocol] = counts_line(next(iter(values.values()))) + markdown(
            ["method", *(f"{name}@10" for name in METRICS)], rows
        )
        for reference, differences in results["differences"].items():
            rows = [
                [
                    methods[method]["label"],
                    *(difference_cell(evaluation, key) for key in METRICS.values()),
                ]
                for method, evaluation in differences.items()
            ]
            header = [f"minus {methods[reference]['label']}", *(f"{name}@10" for name in METRICS)]
            tables[f"{protocol}-minus-{reference}"] = markdown(header, rows)
    if report["published"] and "P0" in report["protocols"]:
        tables["published"] = published_table(report)
    if report["aversions"]:
        rows = [
            [
                f"{methods[method]['label']}, {float(aversion):g}",
                *(value_cell(evaluation, key) for key in METRICS.values()),
            ]
            for method, by_aversion in report["aversions"].items()
            for aversion, evaluation in by_aversion.items()
        ]
        tables["aversions"] = markdown(["aversion", *(f"{name}@10" for name in METRICS)], rows)
    tables["cost"] = cost_table(methods)
    rows = [[method["label"], method["chosen"]] for method in methods.values()]
    tables["settings"] = markdown(["method", "how its settings were chosen"], rows, "---")
    return {f"{report['name']}/{name}": table for name, table in tables.items()}


def value_cell(evaluation: dict, key: str) -> str:
    if np.isnan(evaluation[key]):
        return "-"
    return (
        f"{evaluation[key]:.4f} [{evaluation[f'{key}_low']:.4f}, {evaluation[f'{key}_high']:.4f}]"
    )


def difference_cell(evaluation: dict, key: str) -> str:
    if np.isnan(evaluation[key]):
        return "-"
    low, high = evaluation[f"{key}_low"], evaluation[f"{key}_high"]
    cell = f"{evaluation[key]:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{cell}**" if low > 0 or high < 0 else cell


def counts_line(evaluation: dict) -> str:
    return (
        f"{evaluation['n_liked']:,} liked and {evaluation['n_disliked']:,} disliked targets of "
        f"{evaluation['n_users']:,} users.\n\n"
    )


def published_table(report: dict) -> str:
    """P0 beside what the paper says."""
    rows = []
    for method, figures in report["published"].items():
        evaluation = report["protocols"]["P0"]["values"].get(method)
        if evaluation is None:
            continue
        row = [report["methods"][method]["label"]]
        for name, (mean, deviation) in figures.items():
            row += [f"{mean:.4f} ± {deviation:.4f}", value_cell(evaluation, METRICS[name])]
        rows.append(row)
    header = ["method"]
    for name in ("HR_p", "NDCG_p", "dHR", "dNDCG"):
        header += [f"{name}@10, paper", "here"]
    return markdown(header, rows)


def cost_table(methods: dict) -> str:
    rows = []
    for method in methods.values():
        cost = method["cost"]
        best = [epoch for epoch in cost["best_epoch"] if epoch is not None]
        epochs, seconds = np.mean(cost["n_epochs"]), np.mean(cost["cpu_seconds"])
        rows.append(
            [
                method["label"],
                str(len(method["seeds"])),
                f"{seconds:.1f}",
                f"{epochs:.0f}" if epochs else "-",
                f"{np.mean(best):.0f}" if best else "-",
                f"{seconds / epochs:.2f}" if epochs else "-",
                f"{np.mean(cost['rank_seconds']):.1f}",
            ]
        )
    # Of the processor: several fits at a time, or other work, make the clock run longer.
    header = ["method", "fits", "CPU seconds", "epochs", "best epoch", "CPU seconds per epoch"]
    return markdown([*header, "seconds to rank P1"], rows)


def markdown(header: list[str], rows: list[list[str]], rule: str = "---:") -> str:
    lines = [header, ["---", *[rule] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_markdown(report: dict, tables: dict[str, str]) -> str:
    """All tables as one page."""
    counts = report["counts"]
    seeds = max((method["seeds"] for method in report["methods"].values()), key=len)
    lines = [
        f"# {report['name']}, liked from {report['threshold']:g}\n",
        f"{counts['rows']:,} events of {counts['items']:,} items after the frequency filter; "
        f"{counts['train_users']:,} users before the cut, {counts['held_out_users']:,} after it.\n",
        f"Means over {len(seeds)} seed{'s' * (len(seeds) > 1)}, in brackets 95 % intervals: the "
        "gains of each target are averaged over the seeds, then users are drawn with replacement "
        f"({report['n_bootstraps']:,} times), so the intervals say how much the choice of users "
        "matters, not the choice of seeds. The full catalogue without seen items is ranked. How "
        "settings were chosen stands below; early stopping looks at training users only.\n",
        "Differences are paired: both methods are evaluated on the same drawn users. Bold ones "
        "have an interval without zero.\n",
    ]
    states = {state for method in report["methods"].values() for state in method["code"]}
    if len(states) > 1:
        lines.append(f"**The fits come from {len(states)} states of the code.**\n")
    for name, table in tables.items():
        short = name.split("/", 1)[1]
        about = f": {PROTOCOLS[short]}" if short in PROTOCOLS else ""
        lines.append(f"## {short}{about}\n\n{table}")
    return "\n".join(lines)


def replace_tables(page: Path, tables: dict[str, str]) -> None:
    """Put tables between a page's markers; a marked name of this folder must have its table."""
    folder = next(iter(tables)).split("/", 1)[0]
    pattern = re.compile(
        rf"(<!-- results:({re.escape(folder)}/\S+) -->\n).*?(<!-- /results:\2 -->)", re.DOTALL
    )
    text = page.read_text()
    names = [match[2] for match in pattern.finditer(text)]
    unknown = sorted(set(names) - set(tables))
    if unknown or not names:
        asks = f"asks for {', '.join(unknown)}" if unknown else f"has no markers of {folder}"
        raise SystemExit(f"{page} {asks}; there are {', '.join(tables)}.")
    page.write_text(pattern.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}", text))
    print(f"{len(names)} tables of {page} are replaced.")


if __name__ == "__main__":
    main()
