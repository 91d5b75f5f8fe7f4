"""Write the tables of the pages on performance from what the other scripts measured.

    python examples/benchmarks/performance_page.py results/*.json \
        --docs docs/performance.md docs/performance-details.md

A file is known by its name, that of the script which wrote it: ``training_step.json``,
``compiled_block.json``, ``catalogue.json``, ``serving.json``, ``data.json``, ``growth.json``,
``imports.json``, ``parts.json``, ``gpu.json``, and ``peers-RUN.json`` of any number of runs. Its
tables go between the markers ``<!-- results:SCRIPT/TABLE -->`` and ``<!-- /results:SCRIPT/TABLE
-->`` of the pages, each with a line that says which script, machine and versions they are of.
Tables of files that are not named stay as they are. ``peers-RUN/all`` is all of one run.
MovieLens-1M's makes ``peers/summary``, too, and with those that are named beside it, where they
have a whole fit (``--whole-fit``), ``expect/sizes``: what stands in one table is of one machine.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from peers import OURS, SEQUENCE_PEERS, WHOLE, fastest_call, fastest_epoch
from reproduce_paper import markdown, replace_tables

TITLES = {
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "amazon-beauty": "Amazon Beauty",
    "movietweetings": "MovieTweetings",
}
LABELS = {
    (OURS, "likes"): f"{OURS}, SASRec on likes",
    (OURS, "two encoders"): f"{OURS}, two encoders",
    (OURS, "joint"): f"{OURS}, default objective, these sizes",
    (OURS, "defaults"): f"{OURS}, all defaults",
    (OURS, WHOLE): f"{OURS}, all defaults, until early stopping",
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="JSON", type=Path)
    parser.add_argument("--docs", nargs="+", metavar="FILE", type=Path, required=True)
    args = parser.parse_args(arguments)
    for folder, tables in make_tables(args.files).items():
        pages = [page for page in args.docs if f"<!-- results:{folder}/" in page.read_text()]
        if not pages:
            sys.exit(f"No page has markers of {folder}: {', '.join(map(str, args.docs))}.")
        for page in pages:
            replace_tables(page, {f"{folder}/{name}": table for name, table in tables.items()})


def make_tables(files):
    """The tables of some JSON files: by script, and in it by name."""
    peers, made = {}, {}
    for path in files:
        payload = json.loads(path.read_text())
        if path.stem.startswith("peers"):
            peers[path.stem] = payload
        elif path.stem in MAKERS:
            source = source_of(payload, f"{path.stem}.py")
            tables = MAKERS[path.stem](payload)
            made[path.stem] = {name: f"{table}\n{source}" for name, table in tables.items()}
        else:
            known = ", ".join(f"{name}.json" for name in MAKERS)
            sys.exit(f"{path} is not named like what is known: {known}, peers-RUN.json.")
    return made | of_all_peers(peers)


def source_of(payload, script):
    """The script, machine and versions that figures are of."""
    machine = payload["machine"]
    versions = {name: version for name, version in machine["versions"].items() if version}
    shown = {"python": "Python", "torch": "torch", "numpy": "NumPy"}
    parts = [f"`{script}`", payload.get("device") or machine["cpu"]]
    parts.append(f"{machine['n_cpus']} processor cores")
    parts += [f"{label} {versions[name]}" for name, label in shown.items() if name in versions]
    return f"*{', '.join(parts)}.*\n"


def number(value):
    """Three digits that count, thousands in groups; "-" for what was not measured."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    magnitude = next((n for n in range(1, -8, -1) if abs(value) >= 10**n), -8)
    return f"{value:.{2 - magnitude}f}"


def exponent(value):
    return "-" if value is None else f"{value:.2f}"


def shown(row, titles=None):
    """The values of a row as a page shows them, those that have a title under it; None takes all.

    Text and whole numbers are what they are, what was measured has the digits that count.
    """
    titles = titles or dict.fromkeys(row)
    return {title or key: as_shown(row[key]) for key, title in titles.items()}


def as_shown(value):
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)


def table_of(rows, *, n_labels=1):
    """Rows of equal keys as a table, the first columns to the left."""
    header = list(rows[0])
    lines = markdown(header, [[*map(str, row.values())] for row in rows]).split("\n")
    lines[1] = f"| {' | '.join(['---'] * n_labels + ['---:'] * (len(header) - n_labels))} |"
    return "\n".join(lines)


# -- Peers -----------------------------------------------------------------------------------


def of_all_peers(peers):
    """All tables of each run, by its name; of MovieLens-1M's what to expect and the short one."""
    made = {name: {"all": whole(one)} for name, one in peers.items()}
    main = next((one for one in peers.values() if one["data"]["name"] == "ml-1m"), None)
    if main is None:
        return made
    made["peers"] = {"summary": summary(main)}
    ordered = sorted(peers.values(), key=lambda one: place_of(one["data"]["name"]))
    rows = [row for one in ordered for row in expected(one)]
    if rows:
        made["expect"] = {"sizes": f"{table_of(rows)}\n{source_of(main, 'peers.py')}"}
    return made


def place_of(name):
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def title_of(one):
    return TITLES.get(one["data"]["name"], one["data"]["name"])


def label_of(result):
    case = result["library"], result["variant"]
    if case[0] in SEQUENCE_PEERS:
        return f"{case[0]}, SASRec on likes"
    return LABELS.get(case, ", ".join(case))


def version_of(result):
    """The library's own, which is the first that a runner tells."""
    return f"{result['library']} {next(iter(result['versions'].values()))}"


def expected(one):
    """What a fit and answers of all defaults take."""
    data = one["data"]
    return [
        {
            "data": title_of(one),
            "ratings": f"{data['n_ratings']:,}",
            "users": f"{data['n_users']:,}",
            "items": f"{data['n_items']:,}",
            "fit, s": number(result["fit_seconds"]),
            "of the processor, s": number(result["fit_cpu_seconds"]),
            "epochs": result["n_epochs"],
            "peak MiB": number(result["peak_mib"]),
            "ten items for one history, ms": number(fastest_call(result)[1]["p50_ms"]),
            "for all users, s": number(result["all_seconds"]),
        }
        for result in one["results"]
        if result["variant"] == WHOLE
    ]


def fastest_runs(one):
    """Of each library and model the run in its faster format."""
    runs = {}
    for result in one["results"]:
        runs.setdefault((result["library"], result["variant"]), []).append(result)
    return [
        min(found, key=lambda run: fastest_epoch(run) if "epoch_seconds" in run else 0.0)
        for found in runs.values()
    ]


def summary(one):
    """Each library and model in its faster format; SASRec's peers with their ratio to ours."""
    runs = [run for run in fastest_runs(one) if run["variant"] != WHOLE]
    ours = {run["variant"]: run for run in runs if run["library"] == OURS}
    rows = []
    for run in runs:
        epoch = "-"
        if "epoch_seconds" in run:
            epoch = number(fastest_epoch(run))
        if run["library"] in SEQUENCE_PEERS and "likes" in ours:
            epoch += f" ({fastest_epoch(run) / fastest_epoch(ours['likes']):.1f} x)"
        rows.append(
            {
                title_of(one): label_of(run),
                "epoch, s": epoch,
                "fit, s of the processor": number(run["fit_cpu_seconds"]),
                "peak MiB": number(run["peak_mib"]),
                "all users, s": number(run["all_seconds"]),
                "one history, ms": number(fastest_call(run)[1]["p50_ms"]),
            }
        )
    libraries = ", ".join(sorted({version_of(run) for run in runs if run["library"] != OURS}))
    epochs = (
        f"A fit is of {one['sizes']['epochs']} epochs, but where there are none: it is whole there."
    )
    about = f"{epochs} {libraries}." if libraries else epochs
    return f"{table_of(rows)}\n{about}\n\n{source_of(one, 'peers.py')}"


def whole(one):
    """All that is known of a run: its rows, the ratios, what failed."""
    data = one["data"]
    rows = [
        {
            "": label_of(run),
            "numbers": run["precision"] or "-",
            "epoch, s": number(fastest_epoch(run)) if "epoch_seconds" in run else "-",
            "fit, s": number(run["fit_seconds"]),
            "of the processor, s": number(run["fit_cpu_seconds"]),
            "peak MiB": number(run["peak_mib"]),
            "all users, s": number(run["all_seconds"]),
            "places filled": f"{run['all_filled']:.0%}",
            "one history, p50 / p95 ms": " / ".join(
                number(fastest_call(run)[1][key]) for key in ("p50_ms", "p95_ms")
            ),
        }
        for run in one["results"]
    ]
    about = (
        f"{data['n_likes']:,} likes (from {data['threshold']:g}) of {data['n_users']:,} users and "
        f"{data['n_liked_items']:,} items; {data['n_ratings']:,} ratings, {data['n_items']:,} "
        f"items in all. Fits of {one['sizes']['epochs']} epochs.\n"
    )
    parts = [about, table_of(rows, n_labels=2)]
    if one["ratios"]:
        ratios = [
            {
                key: number(value) if isinstance(value, float | None) else value
                for key, value in ratio.items()
            }
            for ratio in one["ratios"]
        ]
        parts.append(table_of(ratios))
    if one["failed"]:
        failed = (label_of(case) for case in one["failed"])
        parts.append(f"Did not run: {'; '.join(failed)}.\n")
    return "\n".join([*parts, source_of(one, "peers.py")])


# -- The other scripts -----------------------------------------------------------------------


def of_training_step(payload):
    titles = {
        "layout": None,
        "seconds a step": None,
        "times faster than padded": "times faster",
        "times its products": None,
        "peak MiB": None,
        "MiB before the first step": "before the first step",
    }
    rows = [
        shown({**row, "layout": row["layout"].replace(" ", ", ")}, titles)
        for row in payload["layouts"]
    ]
    rows += [
        {
            "layout": f"the products alone, {precision}",
            "seconds a step": number(floor["seconds"]),
            "times faster": "-",
            "times its products": number(1.0),
            "peak MiB": number(floor["peak_mib"]),
            "before the first step": number(floor["start_mib"]),
        }
        for precision, floor in payload["products"].items()
    ]
    return {"layouts": table_of(rows)}


def of_compiled_block(payload):
    return {"layouts": table_of([*map(shown, payload["rows"])], n_labels=2)}


def of_catalogue(payload):
    titles = {
        "items": None,
        "softmax": None,
        "seconds a step": None,
        "epoch's end": "an epoch's end, s",
        "peak MiB": None,
    }
    rows = [shown(row, titles) for row in payload["rows"]]
    seconds = {}
    for row in payload["rows"]:
        seconds.setdefault(row["items"], {})[row["softmax"]] = number(row["seconds a step"])
    short = [
        {
            "items": f"{n_items:,}",
            **{f"a step, {softmax}, s": value for softmax, value in found.items()},
        }
        for n_items, found in seconds.items()
    ]
    return {"short": table_of(short), "steps": table_of(rows, n_labels=2)}


def of_serving(payload):
    results = payload["results"]
    memory = {True: "", False: ", without item memory"}

    def answers(row):
        return {"p50 / p95": " / ".join(f"{number(row[key])} ms" for key in ("p50_ms", "p95_ms"))}

    def seconds(row):
        return {"p50 / p95": f"{number(row['seconds'])} s"}

    rows = [
        {"ten items": f"one history{memory[row['memory']]}", **answers(row), "extra MiB": "-"}
        for row in results["one history"]
    ]
    for axis, words in (("n_items", "{:,} items"), ("k", "k = {:,}"), ("length", "{:,} events")):
        rows += [
            {
                "ten items": f"one history, {words.format(row[axis])}",
                **answers(row),
                "extra MiB": "-",
            }
            for row in results[f"one history by {axis}"]
        ]
    for title, words in (
        ("all users of a table", "{n_users:,} users of {n_rows:,} rows, from the frame"),
        ("many items", "{n_histories:,} histories over {n_items:,} items"),
    ):
        rows += [
            {
                "ten items": words.format(**row) + memory[row["memory"]],
                **seconds(row),
                "extra MiB": number(row["extra_peak_mib"]),
            }
            for row in results[title]
        ]
    return {"answers": table_of(rows)}


def of_data(payload):
    found = {(row["case"], row["library"]): row for row in payload["results"]}

    def extra(row):
        return number(row["extra_mib"] / row["input_mib"])

    rows = []
    for case, words in payload["cases"].items():
        pandas, polars = found[case, "pandas"], found[case, "polars"]
        rows.append(
            {
                f"{payload['results'][0]['n_rows']:,} rows": words,
                "pandas, s": number(pandas["seconds"]),
                "polars, s": number(polars["seconds"]),
                "extra / input, pandas": extra(pandas),
                "polars": extra(polars),
            }
        )
    return {"reading": table_of(rows)}


def of_imports(payload):
    return {"all": table_of([*map(shown, payload["rows"])])}


def of_parts(payload):
    rows = [{**row, "data": TITLES.get(row["data"], row["data"])} for row in payload["rows"]]
    return {"all": table_of([*map(shown, rows)], n_labels=2)}


PARTS = {"read": "reading a frame", "epoch": "an epoch", "recommend": "answers for all"}
AXES = {"users": "users", "events": "events per user", "items": "items", "k": "k"}


def of_growth(payload):
    points = {}
    for point in payload["points"]:
        points.setdefault((point["part"], point["axis"]), []).append(point["seconds"])
    exponents = {(fit["part"], fit["axis"]): fit for fit in payload["exponents"]}
    rows = [
        {
            "part": PARTS[part],
            "axis": AXES[axis],
            "from": f"{fit['from']:,}",
            "to": f"{fit['to']:,}",
            "seconds": f"{number(points[part, axis][0])} to {number(points[part, axis][-1])}",
            "exponent of time": exponent(fit["time exponent"]),
            "of memory": exponent(fit["memory exponent"]),
            "left out": next(fit[key] for key in fit if key.startswith("left out")),
        }
        for (part, axis), fit in exponents.items()
    ]
    short = [
        {
            "time grows with": words,
            **{
                axis_words: exponent(exponents.get((part, axis), {}).get("time exponent"))
                for axis, axis_words in AXES.items()
            },
        }
        for part, words in PARTS.items()
    ]
    return {"short": table_of(short), "all": table_of(rows, n_labels=2)}


def of_gpu(payload):
    titles = {
        "model": "training",
        "recorded": None,
        "ms a step": None,
        "million tokens/s": "million positions/s",
        "TFLOP/s": None,
        "share": "share of the ceiling",
        "peak MiB": None,
    }
    steps = [shown({**row, "share": f"{row['share']:.1%}"}, titles) for row in payload["steps"]]
    answers = [
        {
            "answers, ten best": f"{row['users']:,} users, {row['items']:,} items"
            + (", item memory" if row["memory"] == "yes" else ""),
            "seconds to encode": number(row["seconds to encode"]),
            "seconds to score": number(row["seconds to score"]),
            "peak MiB": number(row["peak MiB"]),
            "places as on the CPU": f"{row['places as on the CPU']:.1%}",
        }
        for row in payload["answers"]
    ]
    tables = [table_of(steps)]
    if payload.get("fits"):
        titles = {
            "model": "a fit, validation included",
            "seconds to the best epoch": None,
            "seconds of the fit": "seconds in all",
            "best epoch": None,
            "seconds an epoch": None,
        }
        fits = [shown(row, titles) for row in payload["fits"]]
        tables.append(table_of(fits))
    return {"all": "\n".join([*tables, table_of(answers)])}


MAKERS = {
    "training_step": of_training_step,
    "compiled_block": of_compiled_block,
    "catalogue": of_catalogue,
    "serving": of_serving,
    "data": of_data,
    "growth": of_growth,
    "imports": of_imports,
    "parts": of_parts,
    "gpu": of_gpu,
}

if __name__ == "__main__":
    main()
