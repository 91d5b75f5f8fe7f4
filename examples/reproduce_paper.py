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
P3             five folds of users: the later half of the events of users that nothing is known of,
               each from all of the user's events before it, by a fit to the other folds
LOO            the last event of each user, by a fit to all other events: only to compare with
               published figures, for others' training events lie after it
LOO-validation LOO without the last events, for choices

In all of them the full catalogue is ranked without what is in the history, liked or not, and an
item that cannot be found (met before, or by no user of the fit) counts as missed. P3 takes five
fits a seed, LOO one more; their files lie in folders beside those of the cut in time.
"""

import argparse
import copy
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import baselines
import joblib
import numpy as np
from paper_protocol import (
    COLUMNS,
    N_FOLDS,
    Split,
    last_out_split,
    paper_split,
    read_ratings,
    user_split,
)

import posneg_rec
from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.metrics import TargetRanks, compare, summarize

METHODS = baselines.METHODS | baselines.BASELINES | baselines.ABLATIONS | baselines.TRIALS
PROTOCOLS = {
    "P0": "the last event of each test user",
    "P1": "every held-out event of the test users",
    "P2": "the last event of each held-out user, test and validation",
    "P1-strict": "every held-out event of the test users, from events of an earlier time only",
    "P1-validation": "every held-out event of the validation users",
    "P3": "the later half of the events of users that the fit has not seen",
    "LOO": "the last event of each user",
    "LOO-validation": "the last event but one of each user",
}
# Fits that a protocol needs: of the cut in time, of each fold of users, of all last events out.
TIME = "time"
FITS = {"P3": [f"P3-{fold}" for fold in range(N_FOLDS)]} | {
    name: [name] for name in ("LOO", "LOO-validation")
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
# Where it is fitted changes no result but by rounding.
IGNORED = ("device",)
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
# LOO of Amazon Beauty, 5-core of 2014: hits and NDCG at 10 of the last events, liked or not.
PUBLISHED_LAST = {
    "SASRec, sampled softmax": (0.0921, 0.0531),
    "eSASRec": (0.0928, 0.0523),
    "HSTU": (0.0788, 0.0439),
    "TIGER": (0.0648, 0.0384),
}
PUBLISHED_LAST_ROWS = 198_502


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
    parser.add_argument("--device", default="auto", help="where to fit: cpu, cuda, ...")
    parser.add_argument("--precision", default="auto", help="of training: float32, bfloat16")
    parser.add_argument("--report-only", action="store_true", help="fit nothing")
    parser.add_argument("--docs", metavar="FILE", help="page whose tables to replace")
    args = parser.parse_args(arguments)

    out = Path(args.out or f"results/{Path(args.data).stem}{'-quick' if args.quick else ''}")
    n_failed = 0
    if not args.report_only:
        n_failed, _ = run(
            jobs_of(
                args.data,
                args.threshold,
                out,
                args.methods,
                args.protocols,
                args.seeds or ([0] if args.quick else [0, 1, 2]),
                quick=args.quick,
                device=args.device,
                precision=args.precision,
            ),
            args.jobs,
        )
    report = make_report(out, args.methods, args.protocols)
    tables = write_report(out, report)
    if args.docs:
        replace_tables(Path(args.docs), tables)
    if n_failed:
        raise SystemExit(f"{n_failed} fits failed.")


# -- First stage: fits and ranks -------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One fit, and the ranks of all targets that it is good for."""

    data: str
    threshold: float
    out: Path
    split: str  # `TIME`, or one of `FITS`
    method: str
    seed: int
    parts: tuple[str, ...] = ("test",)  # sets of targets
    aversions: tuple[float, ...] = AVERSIONS
    quick: bool = False
    device: str = "auto"
    precision: str = "auto"

    @property
    def path(self) -> Path:
        folder = self.out if self.split == TIME else self.out / self.split
        return folder / f"{self.method}-{self.seed}.npz"

    @property
    def settings(self) -> dict:
        """All settings that the method runs with, defaults included."""
        method = METHODS[self.method]
        settings = dict(method.settings)
        if method.is_random:
            given = PROTOCOL | (QUICK if self.quick else {})
            settings = {"precision": self.precision} | settings | given
            settings = ContrastiveSeqRecommender().get_params() | settings
        return settings | ({"device": self.device} if "device" in settings else {})

    def __str__(self) -> str:
        split = "" if self.split == TIME else f" {self.split},"
        return f"{self.out.name},{split} {self.method}, seed {self.seed}"


def jobs_of(
    data: str,
    threshold: float,
    out: Path,
    methods: Iterable[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
    **options,
) -> list[Job]:
    """Name the fits that some methods and protocols need."""
    parts = {split: ("test",) for name in protocols for split in FITS.get(name, [])}
    if any(name not in FITS for name in protocols):
        parts = {TIME: tuple(parts_of(protocols))} | parts
    return [
        Job(data, threshold, out, split, method, seed, parts[split], **options)
        for seed in seeds
        for split in parts
        for method in methods
        if METHODS[method].is_random or seed == seeds[0]
    ]


def run(
    jobs: list[Job], n_workers: int = 1, *, budget: float = float("inf"), make=None
) -> tuple[int, int]:
    """Make the files that are missing, in the order of the jobs.

    After `budget` seconds no further job starts. What goes wrong in a job is printed, and the
    others go on; jobs that were running when a worker died (of memory, say) get one more try.

    Returns how many jobs failed, and how many were not tried.
    """
    make = make or run_one
    deadline = time.monotonic() + budget
    waiting = [job for job in jobs if not is_made(job)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} fits are there already.", flush=True)
    n_all, n_failed, deaths = len(waiting), 0, dict.fromkeys(waiting, 0)
    while waiting and time.monotonic() < deadline:
        started = []

        def tasks(waiting=waiting, started=started):
            for job in waiting:
                if time.monotonic() > deadline:
                    return
                started.append(job)
                yield joblib.delayed(make)(job, f"[{n_all - len(waiting) + len(started)}/{n_all}]")

        try:
            if n_workers == 1:
                made = [function(*positional) for function, positional, _ in tasks()]
            else:
                with joblib.parallel_config("loky", inner_max_num_threads=1):
                    pool = joblib.Parallel(n_workers, batch_size=1, pre_dispatch=n_workers)
                    made = pool(tasks())
            n_failed += made.count(False)
            waiting = waiting[len(started) :]
            break
        except BrokenProcessPool:
            died = [job for job in started if not job.path.exists()]
            print(f"A worker died; running were: {'; '.join(map(str, died))}", flush=True)
            for job in died:
                deaths[job] += 1
            again = [job for job in died if deaths[job] < 2]
            n_failed += len(died) - len(again)
            # After the others, so that what dies again takes few of them along.
            waiting = [*waiting[len(started) :], *again]
    if waiting:
        print(f"Time is up: {len(waiting)} fits are left for another run.", flush=True)
    return n_failed, len(waiting)


def is_made(job: Job) -> bool:
    """Tell whether a fit's file holds what the protocols need."""
    if not job.path.exists():
        return False
    meta, arrays = read(job.path)
    asked = {"settings": job.settings, "threshold": job.threshold}
    # Through JSON, as the file's own went.
    if _compared(json.loads(json.dumps(asked))) != _compared({key: meta[key] for key in asked}):
        raise SystemExit(
            f"{job.path} was made with other settings. Remove it, or choose another --out."
        )
    return all(f"{part}_ranks" in arrays for part in job.parts)


def _compared(asked: dict) -> dict:
    settings = {key: value for key, value in asked["settings"].items() if key not in IGNORED}
    return asked | {"settings": settings}


def parts_of(protocols: Iterable[str]) -> dict[str, None]:
    """Name the sets of targets of the cut in time to rank, an ordered set."""
    needs = {"P2": "other", "P1-strict": "strict", "P1-validation": "validation"}
    return {"test": None} | {needs[name]: None for name in protocols if name in needs}


def split_of(name: str, table, threshold: float, **options) -> Split:
    """Split ratings for a fit."""
    rows = table[COLUMNS], table["rating"]
    if name == TIME:
        return paper_split(*rows, positive_threshold=threshold, **options)
    if name in FITS["P3"]:
        return user_split(*rows, fold=FITS["P3"].index(name))
    return last_out_split(*rows, validation=name == "LOO-validation")


def run_one(job: Job, progress: str = "") -> bool:
    """Fit a method with a seed, rank all targets, write the file; False if that failed."""
    try:
        meta, arrays = fit_and_rank(job)
    except Exception:  # hours of other fits are not to be lost
        print(f"{progress} {job} failed:\n{traceback.format_exc()}", flush=True)
        return False
    finally:
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()  # other workers need room, too
    print(
        f"{progress} {job}: {meta['n_epochs']} epochs (best {meta['best_epoch']}) in "
        f"{meta['seconds']:.0f} s; {len(arrays['test_ranks']):,} targets ranked in "
        f"{meta['rank_seconds']:.0f} s",
        flush=True,
    )
    return True


def fit_and_rank(job: Job) -> tuple[dict, dict[str, np.ndarray]]:
    """Make a job's file, and return what it holds; the default's fit makes two."""
    code = code_digest()
    table = read_ratings(job.data)
    split = split_of(job.split, table, job.threshold)
    method, settings = METHODS[job.method], job.settings
    own = {name: settings[name] for name in settings if name not in GIVEN_BY_FIT}
    clocks = [time.perf_counter(), time.process_time()]
    others = {"validation": split.validation} if method.validates else {}
    model = method.fit(*split.train, job.threshold, job.seed, own, **others)
    seconds, cpu_seconds = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    found = rank_and_write(job, model, table, split, code, seconds, cpu_seconds)
    alone = replace(job, method="without-memory")
    if job.method == "default" and not is_made(alone):
        # The transformer is trained without a look at its memory: the same fit serves both.
        model = copy.copy(model).set_params(item_memory=False)
        model.fitted_ = replace(model.fitted_, memory=None)
        rank_and_write(alone, model, table, split, code, seconds, cpu_seconds)
    return found


def rank_and_write(
    job: Job, model, table, split, code: str, seconds: float, cpu_seconds: float
) -> tuple[dict, dict[str, np.ndarray]]:
    """Rank all targets of a fitted model, and write its job's file."""
    method, settings = METHODS[job.method], job.settings
    start = time.perf_counter()
    arrays = rank_part("test", model, split.test, split.test.successive)
    rank_seconds = time.perf_counter() - start
    arrays["test_last"] = split.test.last[split.test.successive]
    if "strict" in job.parts:
        arrays["strict_ranks"] = strict_ranks(model, split.test, arrays["test_ranks"])
    if "validation" in job.parts:
        validation = split.validation
        arrays |= rank_part("validation", model, validation, validation.successive)
    if "other" in job.parts:
        other = split_of(job.split, table, job.threshold, swap_halves=True).test
        arrays |= rank_part("other", model, other, other.last)
    aversion = model.dislike_aversion if method.sweeps else None
    if aversion is not None:
        arrays["aversions"] = np.unique([*job.aversions, aversion])
        arrays["aversion_ranks"] = aversion_ranks(
            model, split.test, arrays["aversions"], arrays["test_ranks"]
        )

    history = getattr(model, "history_", None)  # of epochs, if there were any
    scores = [] if history is None else history["validation_score"]
    meta = {
        "method": job.method,
        "seed": job.seed,
        "threshold": job.threshold,
        "settings": settings,
        "dislike_aversion": aversion,
        "chosen": getattr(model, "chosen_", None),
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
            "posneg-rec": posneg_rec.__version__,  # which need not be installed
            **{
                package: importlib.metadata.version(package)
                for package in ("numpy", "scikit-learn", "torch")
            },
        },
    }
    arrays = {name: _small(array) for name, array in arrays.items()}
    # Written beside and renamed: a file is there whole or not at all.
    job.path.parent.mkdir(parents=True, exist_ok=True)
    beside = job.path.with_suffix(".part")
    with open(beside, "wb") as file:
        np.savez_compressed(file, meta=json.dumps(meta), **arrays)
    beside.replace(job.path)
    return meta, arrays


def _small(array: np.ndarray) -> np.ndarray:
    """Take half the bytes of large integers where they fit."""
    fits = array.dtype == np.int64 and np.abs(array).max(initial=0) < 2**31
    return array.astype(np.int32) if fits else array


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


def make_report(
    out: Path,
    methods: Iterable[str],
    protocols: Iterable[str],
    references: Iterable[str] = REFERENCES,
) -> dict:
    """Evaluate what the files of a folder hold."""
    runs = {method: found for method in methods if (found := read_runs(out, method, protocols))}
    if not runs:
        raise SystemExit(f"{out} has no results of {', '.join(methods)}.")
    # What is told of a method is that of its fits to the cut in time, if there are any.
    main_runs = {method: next(iter(found.values())) for method, found in runs.items()}
    first = next(iter(main_runs.values()))[0][0]
    report = {
        "name": out.name,
        "threshold": first["threshold"],
        "is_cut_in_time": TIME in next(iter(runs.values())),
        "counts": first["counts"] | {"train_items": first["n_items"]},
        "n_bootstraps": N_BOOTSTRAPS,
        "methods": {
            method: {
                "label": METHODS[method].label,
                "seeds": sorted({meta["seed"] for meta, _ in files}),
                "settings": files[0][0]["settings"],
                "dislike_aversion": files[0][0]["dislike_aversion"],
                "threads": files[0][0]["threads"],
                "code": sorted(
                    {meta["code"] for part in runs[method].values() for meta, _ in part}
                ),
                "versions": files[0][0]["versions"],
                "chosen": METHODS[method].chosen,
                "found": {
                    f"{split}, seed {meta['seed']}": meta["chosen"]
                    for split, part in runs[method].items()
                    for meta, _ in part
                    if meta.get("chosen")
                },
                "cost": {
                    key: [meta[key] for meta, _ in files]
                    for key in ("seconds", "cpu_seconds", "rank_seconds", "n_epochs", "best_epoch")
                },
            }
            for method, files in main_runs.items()
        },
        "published": PUBLISHED if first["counts"]["rows"] == PUBLISHED_ROWS else {},
        "published_last": {},
        "protocols": {},
        "aversions": {},
        "any_sign": {},
    }
    bootstrap = {"n_bootstraps": N_BOOTSTRAPS, "random_state": 0}
    for protocol in protocols:
        ranks = {
            method: ranks
            for method, found in runs.items()
            if (ranks := protocol_runs(protocol, found))
        }
        if not ranks:
            continue
        report["protocols"][protocol] = {
            "n_seeds": {method: len(found) for method, found in ranks.items()},
            "values": {
                method: summarize(found, **bootstrap).to_dict() for method, found in ranks.items()
            },
            "differences": {
                reference: {
                    method: compare(found, ranks[reference], **bootstrap).to_dict()
                    for method, found in ranks.items()
                    if method != reference
                }
                for reference in references
                if reference in ranks
            },
        }
        if protocol.startswith("LOO"):
            report["any_sign"][protocol] = {
                method: summarize(list(map(of_any_sign, found)), **bootstrap).to_dict()
                for method, found in ranks.items()
            }
    if "LOO" in report["protocols"] and any(
        meta["counts"]["rows"] == PUBLISHED_LAST_ROWS
        for found in runs.values()
        for meta, _ in found.get("LOO", [])
    ):
        report["published_last"] = PUBLISHED_LAST
    for protocol in ("P1", "P3", "LOO"):
        if protocol not in report["protocols"]:
            continue
        swept = {
            method: {
                str(aversion): summarize(found, **bootstrap).to_dict()
                for aversion, found in at_aversions(protocol, runs[method]).items()
            }
            for method in report["protocols"][protocol]["values"]
            if METHODS[method].sweeps
        }
        if protocol == "LOO":
            for method in swept:
                found = at_aversions(protocol, runs[method]).get(0.0)
                if found:
                    report["any_sign"][protocol][f"{method}-without-aversion"] = summarize(
                        list(map(of_any_sign, found)), **bootstrap
                    ).to_dict()
        swept = {method: found for method, found in swept.items() if found}
        if swept:
            report["aversions"][protocol] = swept
    return report


Runs = dict[str, list[tuple[dict, dict[str, np.ndarray]]]]  # by fit, its files


def read_runs(out: Path, method: str, protocols: Iterable[str]) -> Runs:
    """Read a method's files, by fit."""
    splits = {split: None for name in protocols for split in FITS.get(name, [TIME])}
    splits = sorted(splits, key=lambda split: split != TIME)
    found = {
        split: [
            read(path)
            for path in sorted((out if split == TIME else out / split).glob(f"{method}-*.npz"))
            if path.stem.removeprefix(f"{method}-").isdigit()
        ]
        for split in splits
    }
    return {split: files for split, files in found.items() if files}


def protocol_runs(protocol: str, runs: Runs) -> list[TargetRanks]:
    """Take a protocol's targets from a method's files, a list of seeds; empty if files lack."""
    if protocol not in FITS:
        files = runs.get(TIME, [])
        found = [protocol_ranks(protocol, *file) for file in files]
        return found if all(found) else []
    folds = [
        {meta["seed"]: protocol_ranks("P1", meta, arrays) for meta, arrays in runs.get(split, [])}
        for split in FITS[protocol]
    ]
    seeds = sorted(set.intersection(*map(set, folds)))
    return [together([fold[seed] for fold in folds]) for seed in seeds]


def at_aversions(protocol: str, runs: Runs) -> dict[float, list[TargetRanks]]:
    """Take the targets of P1, P3 or LOO at each aversion that all files hold."""
    files = [file for split in FITS.get(protocol, [TIME]) for file in runs.get(split, [])]
    if not files or not all("aversions" in arrays for _, arrays in files):
        return {}
    common = set.intersection(*(set(arrays["aversions"].tolist()) for _, arrays in files))

    def at(aversion: float) -> Runs:
        return {
            split: [
                (
                    meta,
                    arrays
                    | {
                        "test_ranks": arrays["aversion_ranks"][
                            arrays["aversions"].tolist().index(aversion)
                        ]
                    },
                )
                for meta, arrays in runs.get(split, [])
            ]
            for split in FITS.get(protocol, [TIME])
        }

    return {aversion: protocol_runs(protocol, at(aversion)) for aversion in sorted(common)}


def together(parts: Sequence[TargetRanks]) -> TargetRanks:
    """Join the targets of several tables, with rows of a table that has one after the other."""
    if len(parts) == 1:
        return parts[0]
    n_items = max(part.n_items for part in parts)
    offsets = np.cumsum([0, *(part.rows.max(initial=-1) + 1 for part in parts[:-1])])
    return TargetRanks(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.rows + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.signs for part in parts]),
        # What cannot be found stays so.
        np.concatenate(
            [np.where(part.ranks > part.n_items, n_items + 1, part.ranks) for part in parts]
        ),
        n_items,
    )


def of_any_sign(ranks: TargetRanks) -> TargetRanks:
    """Take all targets for liked ones."""
    return replace(ranks, signs=np.ones_like(ranks.signs))


def protocol_ranks(protocol: str, meta: dict, arrays: dict[str, np.ndarray]) -> TargetRanks | None:
    """Take the targets of a protocol from one file; None if it does not hold them."""

    def part(name: str) -> TargetRanks:
        users, *columns = (
            arrays[f"{name}_{field}"] for field in ("users", "rows", "signs", "ranks")
        )
        rows, signs, ranks = (
            column.astype(kind) for column, kind in zip(columns, (int, np.int8, int), strict=True)
        )
        return TargetRanks(users, rows, signs, ranks, n_items=meta["n_items"])

    if not all(f"{name}_ranks" in arrays for name in parts_of([protocol])):
        return None
    if protocol == "P1-validation":
        return part("validation")
    test = part("test")
    if protocol == "P1":
        return test
    if protocol == "P1-strict":
        return replace(test, ranks=arrays["strict_ranks"].astype(int))
    last = arrays["test_last"]
    test = TargetRanks(
        test.users[last], test.rows[last], test.signs[last], test.ranks[last], test.n_items
    )
    return test if protocol == "P0" else together([test, part("other")])


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
    for protocol, swept in report["aversions"].items():
        rows = [
            [
                f"{methods[method]['label']}, {float(aversion):g}",
                *(value_cell(evaluation, key) for key in METRICS.values()),
            ]
            for method, by_aversion in swept.items()
            for aversion, evaluation in by_aversion.items()
        ]
        name = "aversions" if protocol == "P1" else f"{protocol}-aversions"
        tables[name] = markdown(["aversion", *(f"{name}@10" for name in METRICS)], rows)
    for protocol, evaluations in report["any_sign"].items():
        tables[f"{protocol}-any-sign"] = any_sign_table(
            evaluations, methods, report["published_last"] if protocol == "LOO" else {}
        )
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


def any_sign_table(evaluations: dict, methods: dict, published: dict) -> str:
    """Hits and NDCG of what came, liked or not, beside what others publish."""
    rows = [
        [f"{name}, published", *(f"{value:.4f}" for value in figures)]
        for name, figures in published.items()
    ]
    for name, evaluation in evaluations.items():
        method = name.removesuffix("-without-aversion")
        label = methods[method]["label"] + ("" if method == name else ", aversion 0")
        rows.append(
            [label, *(value_cell(evaluation, f"{key}_liked") for key in ("hit_rate", "ndcg"))]
        )
    return markdown(["method, targets of any sign", "recall@10", "NDCG@10"], rows)


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
    return markdown([*header, "seconds to rank"], rows)


def markdown(header: list[str], rows: list[list[str]], rule: str = "---:") -> str:
    lines = [header, ["---", *[rule] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def as_markdown(report: dict, tables: dict[str, str]) -> str:
    """All tables as one page."""
    counts = report["counts"]
    seeds = max((method["seeds"] for method in report["methods"].values()), key=len)
    about = f"{counts['rows']:,} events of {counts['items']:,} items"
    if report["is_cut_in_time"]:
        about += (
            f" after the frequency filter; {counts['train_users']:,} users before the cut, "
            f"{counts['held_out_users']:,} after it"
        )
    lines = [
        f"# {report['name']}, liked from {report['threshold']:g}\n",
        f"{about}.\n",
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


def write_report(out: Path, report: dict) -> dict[str, str]:
    """Write report.json and report.md; return the tables."""
    with open(out / "report.json", "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    tables = make_tables(report)
    (out / "report.md").write_text(as_markdown(report, tables))
    print(f"{out / 'report.md'} and report.json are written.")
    return tables


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
