"""Every data set, protocol and method in one queue of fits, and one picture of what they find.

    python examples/benchmarks/all_sets.py --data-dir data --out results --jobs 2

The folder of data holds the files of ``SETS``; what is not there is left out, with a word. Each
fit (of a set, a split, a method and a seed) is a job of `reproduce_paper.py` and leaves one small
.npz file in a folder of its set; a file that exists is not made again. So the command can be
stopped, and ``--budget-seconds`` lets no further job start after a while: call it again until
nothing is left. The jobs that take longest go first. What fails is printed, and the others go on.

At the end, and with ``--report-only`` alone, ``report.json`` and ``report.md`` of each set are
made from the files (means over the seeds, intervals over users, paired differences from the
default), the same of all sets in ``all_sets.md`` and ``all_sets.json``, and, where matplotlib is
installed, two pictures, ``all_sets.png`` and, of each set the protocol with the most targets,
``results.png``. ``--pack DIR`` puts all of it into a few archives
``ranks-0.tar``, ``ranks-1.tar``, ... of at most 15 MiB, to take them to another machine; there
``--unpack DIR`` takes them out again before anything else. ``--docs FILE`` puts tables between the
markers of a page, as `reproduce_paper.py` does: ``all-sets/SET-TABLE``.

What was chosen (days, penalties, weights) is in each report under ``found``; choices of one's own
are made on P1-validation and LOO-validation, never on the test users.
"""

import argparse
import json
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1]))
import numpy as np
import reproduce_paper as study


class DataSet(NamedTuple):
    title: str
    file: str
    threshold: float
    protocols: tuple[str, ...]


SETS = {
    "ml-100k": DataSet("MovieLens-100K", "ml-100k.parquet", 4, ("P1", "P1-validation", "P3")),
    "ml-1m": DataSet("MovieLens-1M", "ml-1m.parquet", 4, ("P0", "P1", "P1-validation")),
    "amazon-beauty": DataSet(
        "Amazon Beauty", "amazon-beauty.parquet", 5, ("P1", "P1-validation", "P3", "LOO")
    ),
    "movietweetings": DataSet(
        "MovieTweetings", "movietweetings.parquet", 8, ("P1", "P1-validation", "P3")
    ),
}
# The default, and what it is compared with.
METHODS = (
    "default",
    "without-memory",
    "likes-only-random-tuned",
    "no-signs",
    "item-item-sequence",
    "item-item",
    "item-item-tuned",
    "item-item-signed",
    "taste",
    "popular-liked",
    "popular-recent",
    "popular-now",
)
# Of the pictures, in their order.
PANELS = {
    "P0": "each test user's last event",
    "P1": "every later event",
    "P3": "new users",
    "LOO": "the last event",
}
MAIN = {
    "default": "posneg-rec, all defaults",
    "without-memory": "without its memory of items",
    "likes-only-random-tuned": "SASRec on likes",
    "item-item": "item-item (EASE)",
    "item-item-sequence": "EASE and SASRec added",
    "popular-liked": "most liked",
}
WIDTH = 8  # inches
MAX_ARCHIVE = 15 * 2**20


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", metavar="DIR", required=True)
    parser.add_argument("--out", metavar="DIR", default="results")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--protocols", nargs="+", choices=study.PROTOCOLS, help="default: all of each set"
    )
    parser.add_argument("--methods", nargs="+", choices=study.METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--aversions",
        nargs="*",
        type=float,
        default=[0.0],
        help="of the default, beside its own; default: 0",
    )
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time, of one thread each")
    parser.add_argument("--device", default="auto", help="where to fit: cpu, cuda, ...")
    parser.add_argument("--precision", default="auto", help="of training: float32, bfloat16")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer epochs")
    parser.add_argument("--dry-run", action="store_true", help="name the fits, make none")
    parser.add_argument("--report-only", action="store_true", help="fit nothing")
    parser.add_argument("--no-report", action="store_true", help="fit only")
    parser.add_argument("--docs", metavar="FILE", help="page whose tables to replace")
    parser.add_argument("--pack", metavar="DIR", help="folder for archives of what was made")
    parser.add_argument("--unpack", metavar="DIR", help="folder of such archives to begin with")
    args = parser.parse_args(arguments)

    out = Path(args.out)
    if args.unpack:
        unpack(Path(args.unpack), out)
    n_failed = 0
    if not args.report_only:
        jobs = all_jobs(args, out)
        if args.dry_run:
            print(*jobs, f"{len(jobs)} fits", sep="\n")
            return
        n_failed, _ = study.run(jobs, args.jobs, budget=args.budget_seconds)
    if not args.no_report:
        write_reports(args, out)
    if args.pack:
        pack(out, Path(args.pack))
    if n_failed:
        raise SystemExit(f"{n_failed} fits failed.")


def protocols_of(name: str, args: argparse.Namespace) -> list[str]:
    """Those of a set that are asked for."""
    return [p for p in SETS[name].protocols if args.protocols is None or p in args.protocols]


def all_jobs(args: argparse.Namespace, out: Path) -> list[study.Job]:
    """Name the fits of all sets, the longest first, and all of a seed before the next."""
    jobs = []
    for name in args.sets:
        path = Path(args.data_dir) / SETS[name].file
        if not path.exists():
            print(f"{path} does not exist: {name} is left out.", flush=True)
            continue
        protocols = protocols_of(name, args)
        if any(protocol not in study.FITS for protocol in protocols):
            protocols.append("P1-validation")  # no fit is to be made again for it
        jobs += study.jobs_of(
            str(path),
            SETS[name].threshold,
            out / name,
            args.methods,
            protocols,
            args.seeds,
            aversions=tuple(args.aversions),
            quick=args.quick,
            device=args.device,
            precision=args.precision,
        )

    def cost(job: study.Job) -> float:
        # The file's size stands for its number of rows.
        return study.METHODS[job.method].cost * Path(job.data).stat().st_size

    return sorted(jobs, key=lambda job: (args.seeds.index(job.seed), -cost(job)))


# -- Reports ---------------------------------------------------------------------------------


def write_reports(args: argparse.Namespace, out: Path) -> None:
    """Write the reports of the sets that have results, and what they say together."""
    reports, tables = {}, {}
    for name in args.sets:
        if any((out / name).rglob("*.npz")):
            protocols, references = protocols_of(name, args), ("default",)
            reports[name] = study.make_report(out / name, args.methods, protocols, references)
            made = study.write_report(out / name, reports[name])
            tables |= {f"all-sets/{key.replace('/', '-')}": table for key, table in made.items()}
    if args.docs and tables:
        study.replace_tables(Path(args.docs), tables)
    if not reports:
        print(f"{out} has no results yet.")
        return
    (out / "all_sets.json").write_text(json.dumps(reports, indent=1) + "\n")
    pages = [(out / name / "report.md").read_text() for name in reports]
    (out / "all_sets.md").write_text(summary(reports) + "\n" + "\n".join(pages))
    print(f"{out / 'all_sets.md'} and all_sets.json are written.")
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture.")
        return
    matplotlib.use("Agg")
    draw(reports).savefig(out / "all_sets.png", dpi=130)
    draw(reports, one_each=True, n_columns=2).savefig(out / "results.png", dpi=130)
    print(f"{out / 'all_sets.png'} and results.png are drawn.")


def summary(reports: dict[str, dict]) -> str:
    """Say in one table where the default wins: its differences from each method, by protocol."""
    lines = [
        "# All sets\n",
        "The default minus each method; bold where the interval has no zero.\n",
    ]
    for name, report in reports.items():
        for protocol, results in report["protocols"].items():
            rows = []
            for method, difference in results["differences"].get("default", {}).items():
                label = report["methods"][method]["label"]
                cells = (study.difference_cell(turned(difference, key), key) for key in _KEYS)
                rows.append([label, str(results["n_seeds"][method]), *cells])
            if rows:
                header = ["ours minus", "seeds", *(f"{metric}@10" for metric in study.METRICS)]
                lines.append(f"## {name}, {protocol}\n\n{study.markdown(header, rows)}")
    return "\n".join(lines)


_KEYS = tuple(study.METRICS.values())


def turned(difference: dict, key: str) -> dict:
    """Take a difference the other way round."""
    return {
        key: -difference[key],
        f"{key}_low": -difference[f"{key}_high"],
        f"{key}_high": -difference[f"{key}_low"],
    }


def draw(reports: dict[str, dict], *, one_each: bool = False, n_columns: int = 3):
    """Draw likes found against dislikes shown, a panel for each set and protocol.

    `one_each` draws of each set the protocol with the most targets, and the methods that a reader
    of one page wants to know of.
    """
    import matplotlib.pyplot as plt
    import tradeoff

    from posneg_rec.metrics import Evaluation
    from posneg_rec.plotting import TradeoffDisplay

    panels = [
        (name, protocol)
        for name, report in reports.items()
        for protocol in PANELS
        if protocol in report["protocols"]
    ]
    if one_each:
        panels = list(dict(sorted(panels, key=lambda panel: n_targets(reports, *panel))).items())
        panels.sort(key=lambda panel: list(reports).index(panel[0]))
    shown = [method for method in study.METHODS if method in MAIN or not one_each]
    present = {
        method: report["methods"][method]["label"]
        for method in shown
        for report in reports.values()
        if method in report["methods"]
    }
    looks = {
        method: (f"C{place % 10}", tradeoff.MARKERS[place % len(tradeoff.MARKERS)])
        for place, method in enumerate(method for method in present if method != "default")
    } | {"default": ("black", "o")}
    n_columns = max(1, min(n_columns, len(panels)))
    n_rows = max(1, -(-len(panels) // n_columns))
    figure, axes_of = plt.subplots(
        n_rows,
        n_columns,
        figsize=(WIDTH, (WIDTH / n_columns + 0.3) * n_rows + 1.2),
        layout="constrained",
        squeeze=False,
    )
    figure.get_layout_engine().set(h_pad=0.1)
    labels = {}
    for axes in axes_of.flat[len(panels) :]:
        axes.set_axis_off()
    for place, (axes, (name, protocol)) in enumerate(zip(axes_of.flat, panels, strict=False)):
        report = reports[name]
        values = report["protocols"][protocol]["values"]
        # Where all is liked there is no place on the other axis.
        values = {
            method: values[method]
            for method in present
            if method in values
            and not np.isnan(
                [values[method]["hit_rate_liked"], values[method]["hit_rate_disliked"]]
            ).any()
        }
        swept = report["aversions"].get(protocol, {}).get("default", {})
        if len(swept) > 1 and "default" in values:
            curve = tradeoff.curve_of(swept, report["methods"]["default"]["dislike_aversion"])
            TradeoffDisplay(curve=curve, name="by its aversion").plot(
                axes, intervals=False, color="black"
            )
        for method, value in values.items():
            colour, marker = looks[method]
            label = MAIN[method] if one_each else present[method]
            TradeoffDisplay(curve=Evaluation.from_dict(value), name=label).plot(
                axes, color=colour, marker=marker
            )
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
        if axes.get_legend() is not None:
            axes.get_legend().remove()
        is_lowest = place + n_columns >= len(panels)
        axes.set_xlabel("hits on dislikes (fewer is better)" if is_lowest else "", fontsize=9)
        is_first = place % n_columns == 0
        axes.set_ylabel("hits on likes (more is better)" if is_first else "", fontsize=9)
        title = SETS[name].title, PANELS[protocol]
        axes.set_title((", " if one_each else ",\n").join(title), fontsize="medium", pad=12)
        axes.locator_params(nbins=5)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    # The methods in their order, and then the lines.
    names = (MAIN if one_each else present).values()
    order = [name for name in names if name in labels] + [
        label for label in labels if label not in names
    ]
    figure.legend(
        [labels[label] for label in order],
        order,
        loc="outside lower center",
        frameon=False,
        ncols=3,
        fontsize=9,
    )
    return figure


def n_targets(reports: dict[str, dict], name: str, protocol: str) -> int:
    counts = reports[name]["protocols"][protocol]["values"].values()
    return max((value["n_liked"] + value["n_disliked"] for value in counts), default=0)


# -- Archives --------------------------------------------------------------------------------


def pack(out: Path, folder: Path, max_bytes: int = MAX_ARCHIVE) -> None:
    """Put results and reports into archives of at most so many bytes, but for a larger file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(
        path for path in out.rglob("*") if path.suffix in {".npz", ".json", ".md", ".png"}
    )
    archives, size = [[]], 0
    for path in files:
        n_bytes = path.stat().st_size + 1024  # its header, and to a full block
        if archives[-1] and size + n_bytes > max_bytes:
            archives.append([])
            size = 0
        archives[-1].append(path)
        size += n_bytes
    for number, members in enumerate(archives):
        name = folder / f"ranks-{number}.tar"
        with tarfile.open(name, "w", format=tarfile.GNU_FORMAT) as archive:
            for path in members:
                archive.add(path, path.relative_to(out))
    print(f"{len(files)} files are in {len(archives)} archives of {folder}.")


def unpack(folder: Path, out: Path) -> None:
    """Take out what `pack` put in, and leave alone what is there."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("ranks-*.tar")):
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if not (out / m.name).exists()]
            archive.extractall(out, members, filter="data")


if __name__ == "__main__":
    main()
