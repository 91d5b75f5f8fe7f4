"""The benchmark beside other libraries: what all of them read, what is compared, what is told."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples" / "benchmarks"))
import peer_shared
import peers
import performance_page

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ratings():
    """Of three users, two of whom like twice from 4 on, and one from 2 on."""
    return pd.DataFrame(
        {
            "who": [1, 1, 1, 2, 2, 2, 3, 3],
            "what": [10, 11, 12, 10, 12, 13, 10, 11],
            "stars": [5, 4, 1, 4, 5, 2, 5, 2],
            "when": [1, 2, 3, 1, 2, 3, 1, 2],
        }
    )


NAMES = ["--user-column", "who", "--item-column", "what", "--rating-column", "stars"]
NAMES += ["--time-column", "when"]


def arguments(path, *options):
    return peer_shared.parse_arguments(
        ["--data", str(path), *options, "--epochs", "2", "--calls", "1"]
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_all_libraries_read_users_with_two_likes_whatever_the_columns_are_called(
    ratings, suffix, tmp_path
):
    path = tmp_path / f"ratings.{suffix}"
    if suffix == "csv":
        ratings.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        ratings.to_parquet(path)
    read = peer_shared.read_ratings(arguments(path, *NAMES))
    assert list(read) == ["user_id", "item_id", "rating", "timestamp"]
    assert read["user_id"].tolist() == [1, 1, 1, 2, 2, 2]
    assert peer_shared.read_likes(arguments(path, *NAMES))["item_id"].tolist() == [10, 11, 10, 12]
    assert peer_shared.read_ratings(arguments(path, *NAMES, "--users", "1"))["user_id"].eq(1).all()
    lower = peer_shared.read_likes(arguments(path, *NAMES, "--threshold", "2"))
    assert lower["user_id"].tolist() == [1, 1, 2, 2, 2, 3, 3]


def test_what_a_runner_is_handed_is_what_was_asked_for(ratings, tmp_path):
    path = tmp_path / "ratings.csv"
    asked = arguments(path, *NAMES, "--threshold", "4.5", "--users", "7")
    handed_on = argparse.ArgumentParser()
    peer_shared.add_data_arguments(handed_on)
    again = handed_on.parse_args(peer_shared.data_arguments(asked))
    assert vars(again).items() <= vars(asked).items()


def test_a_column_that_is_not_there_and_a_threshold_that_leaves_nobody_are_told(ratings, tmp_path):
    path = tmp_path / "ratings.csv"
    ratings.to_csv(path, index=False)
    with pytest.raises(SystemExit, match=r"who, what, stars, when: no user_id, .*--user-column"):
        peer_shared.read_ratings(arguments(path))
    with pytest.raises(SystemExit, match="one was named twice"):
        peer_shared.read_ratings(arguments(path, *NAMES, "--time-column", "stars"))
    with pytest.raises(SystemExit, match="two ratings from 6 on; --threshold"):
        peer_shared.read_ratings(arguments(path, *NAMES, "--threshold", "6"))


def test_a_fit_costs_what_its_own_process_and_those_it_waited_for_took():
    code = "import time\nstart = time.process_time()\nwhile time.process_time() - start < .15: pass"

    def fit():
        peers.subprocess.run([sys.executable, "-c", code], check=True)

    assert peer_shared.time_fit(fit)["fit_cpu_seconds"] > 0.14


def result(library, variant, precision, *, epoch=None, all_users=1.0, one=1.0, **more):
    return {
        "library": library,
        "variant": variant,
        "precision": precision,
        "versions": {library.lower(): "1.2", "numpy": "2.0"},
        **({} if epoch is None else {"epoch_seconds": [epoch + 1, epoch], "loss": 3.0}),
        "fit_seconds": 30.0,
        "fit_cpu_seconds": 40.0,
        "peak_mib": 1000.4,
        "all_seconds": all_users,
        "all_filled": 1.0,
        "calls": {
            "slow": {"p50_ms": 2 * one, "p95_ms": 9.0},
            "fast": {"p50_ms": one, "p95_ms": 8.0},
        },
        **more,
    }


RESULTS = [
    result("posneg-rec", "likes", "auto", epoch=2.0, all_users=0.5),
    result("posneg-rec", "likes", "float32", epoch=5.0, all_users=0.4),
    result("RePlay", "likes", "32-true", epoch=20.0, one=0.25),
    result("RePlay", "likes", "bf16-mixed", epoch=9.0, one=0.5),
    result("posneg-rec", "defaults", "auto", epoch=8.0, all_users=2.0),
    result("LensKit", "ALS", None, all_users=50.0),
]


def test_each_library_is_compared_at_the_best_of_its_runs():
    (ratio,) = peers.ratios(RESULTS)  # RecTools did not run, and the others train no SASRec
    assert ratio["times posneg-rec"] == "RePlay"
    assert ratio["epoch"] == 9 / 2
    assert ratio["epoch, float32"] == 20 / 5
    assert ratio["epoch / two encoders"] is None
    assert ratio["all users"] == 1 / 0.4
    assert ratio["all users / all defaults"] == 1 / 2
    assert ratio["one history"] == 0.25


def fake_runners(monkeypatch, folder, *, broken=()):
    """Runners that tell what they were asked for, but for those that fail."""
    written = {}
    for library in peers.RUNNERS:
        path = folder / f"{library}.py"
        told = {
            key: value
            for key, value in result(library, "", None, epoch=2.0, n_epochs=4).items()
            if key not in ("library", "variant", "precision")
        }
        path.write_text(
            "import sys\n"
            + ("sys.exit('no room')\n" if library in broken else "")
            + f"print('a log line')\nprint({json.dumps(json.dumps(told))})\n"
        )
        written[library] = str(path)
    monkeypatch.setattr(peers, "RUNNERS", written)


@pytest.fixture
def data(ratings, tmp_path):
    path = tmp_path / "ml-1m.csv"
    ratings.to_csv(path, index=False)
    return ["--data", str(path), *NAMES]


def test_libraries_without_an_environment_are_left_out_and_the_others_are_written(
    data, monkeypatch, tmp_path, capsys
):
    fake_runners(monkeypatch, tmp_path)
    out = tmp_path / "peers.json"
    peers.main([*data, "--lenskit-python", sys.executable, "--fast-only", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["data"] == {
        "name": "ml-1m",
        "threshold": 4.0,
        "n_users": 2,
        "n_ratings": 6,
        "n_items": 4,
        "n_likes": 4,
        "n_liked_items": 3,
    }
    assert [(one["library"], one["variant"]) for one in found["results"]] == [
        ("posneg-rec", "likes"),
        ("posneg-rec", "two encoders"),
        ("posneg-rec", "joint"),
        ("posneg-rec", "defaults"),
        ("posneg-rec", "item-item (EASE)"),
        ("LensKit", "item-item (nearest)"),
        ("LensKit", "ALS"),
    ]
    assert found["failed"] == []
    assert "fit CPU s" in capsys.readouterr().out


def test_a_library_that_fails_is_named_and_costs_the_others_nothing(data, monkeypatch, tmp_path):
    fake_runners(monkeypatch, tmp_path, broken={"implicit"})
    out = tmp_path / "peers.json"
    command = [*data, "--fast-only", "--whole-fit", "--json", str(out)]
    with pytest.raises(SystemExit, match=r"2 of 8 failed: implicit item-item \(cosine\); implicit"):
        peers.main([*command, "--implicit-python", sys.executable])
    found = json.loads(out.read_text())
    assert found["results"][4]["variant"] == "defaults, to the end"
    assert [one["error"] for one in found["failed"]] == ["no room\n"] * 2


# -- The page --------------------------------------------------------------------------------

MACHINE = {
    "cpu": "A Processor",
    "n_cpus": 2,
    "omp_num_threads": None,
    "system": "Linux",
    "versions": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "pandas": None},
}


def peers_payload(name="ml-1m", results=RESULTS, failed=()):
    return {
        "machine": MACHINE,
        "data": {
            "name": name,
            "threshold": 4.0,
            "n_users": 6037,
            "n_ratings": 1_000_000,
            "n_items": 3682,
            "n_likes": 575_281,
            "n_liked_items": 3533,
        },
        "sizes": {"epochs": 3},
        "results": results,
        "ratios": peers.ratios(results),
        "failed": list(failed),
    }


def written(folder, **payloads):
    paths = []
    for name, payload in payloads.items():
        paths.append(folder / f"{name.replace('__', '-')}.json")
        paths[-1].write_text(json.dumps(payload))
    return paths


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_one_table_against_peers_has_each_model_in_its_faster_format(tmp_path):
    tables = performance_page.make_tables(written(tmp_path, peers__ml__1m=peers_payload()))
    lines = tables["peers"]["summary"].splitlines()
    assert cells(lines[0])[:2] == ["MovieLens-1M", "epoch, s"]
    assert [cells(line)[:2] for line in lines[2:6]] == [
        ["posneg-rec, SASRec on likes", "2.00"],
        ["RePlay, SASRec on likes", "9.00 (4.5 x)"],
        ["posneg-rec, all defaults", "8.00"],
        ["LensKit, ALS", "-"],
    ]
    assert cells(lines[3])[2:] == ["40.0", "1,000", "1.00", "0.500"]
    assert "RePlay 1.2" in tables["peers"]["summary"]
    assert lines[-1] == (
        "*`peers.py`, A Processor, 2 processor cores, Python 3.11.7, torch 2.13.0, NumPy 2.4.6.*"
    )
    assert "expect" not in tables  # nothing was fitted to the end


def test_each_run_has_its_tables_with_what_did_not_run(tmp_path):
    whole = result("posneg-rec", peers.WHOLE, "auto", epoch=2.0, n_epochs=41, fit_seconds=300.4)
    failed = [{"library": "LensKit", "variant": "ALS", "precision": None, "error": "no room"}]
    files = written(
        tmp_path,
        peers__movietweetings=peers_payload("movietweetings", [*RESULTS, whole], failed),
        peers__own=peers_payload("own"),
        peers__ml__1m=peers_payload("ml-1m", [*RESULTS, whole]),
    )
    tables = performance_page.make_tables(files)
    runs = ["peers-movietweetings", "peers-own", "peers-ml-1m"]
    assert [*tables] == [*runs, "peers", "expect"]
    failing, own = (tables[name]["all"] for name in runs[:2])
    assert "Did not run: LensKit, ALS." in failing and "Did not run" not in own
    assert "| RePlay, SASRec on likes | 32-true | 20.0 |" in own
    # A run by itself, maybe of another machine, changes no other's tables.
    assert performance_page.make_tables(files[:1]) == {runs[0]: tables[runs[0]]}
    rows = [cells(line) for line in tables["expect"]["sizes"].splitlines()[2:4]]
    assert [row[0] for row in rows] == ["MovieLens-1M", "MovieTweetings"]
    assert rows[0][1:] == [
        "1,000,000",
        "6,037",
        "3,682",
        "300",
        "40.0",
        "41",
        "1,000",
        "1.00",
        "1.00",
    ]


def test_growth_is_told_in_short_and_in_full(tmp_path):
    payload = {
        "machine": MACHINE,
        "points": [
            {"part": "read", "axis": "users", "value": 1000, "seconds": 0.0041},
            {"part": "read", "axis": "users", "value": 3000, "seconds": 9.34},
            {"part": "recommend", "axis": "k", "value": 1, "seconds": 0.12},
        ],
        "exponents": [
            {
                "part": part,
                "axis": axis,
                "time exponent": time,
                "memory exponent": None,
                "from": 1,
                "to": last,
                "left out (> 60 s)": left_out,
            }
            for part, axis, time, last, left_out in (
                ("read", "users", 1.154, 3000, "10000"),
                ("recommend", "k", 0.2, 1, "-"),
            )
        ],
    }
    tables = performance_page.make_tables(written(tmp_path, growth=payload))["growth"]
    short = [cells(line) for line in tables["short"].splitlines()[2:5]]
    assert short[0] == ["reading a frame", "1.15", "-", "-", "-"]
    assert short[2] == ["answers for all", "-", "-", "-", "0.20"]
    line = tables["all"].splitlines()[2]
    assert cells(line)[2:] == ["1", "3,000", "0.00410 to 9.34", "1.15", "-", "10000"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.9, "0.900"),
        (0.00410, "0.00410"),
        (2.914, "2.91"),
        (18.24, "18.2"),
        (4902.3, "4,902"),
        (None, "-"),
    ],
)
def test_numbers_have_three_digits_that_count(value, shown):
    assert performance_page.number(value) == shown


def test_tables_go_to_the_pages_that_ask_and_others_stay(tmp_path):
    pages = [tmp_path / "first.md", tmp_path / "second.md"]
    kept = "<!-- results:growth/short -->\nold\n<!-- /results:growth/short -->\n"
    pages[0].write_text(
        "<!-- results:peers/summary -->\nold\n<!-- /results:peers/summary -->\n" + kept
    )
    pages[1].write_text(
        "<!-- results:peers-ml-1m/all -->\nold\n<!-- /results:peers-ml-1m/all -->\n"
    )
    files = [str(path) for path in written(tmp_path, peers__ml__1m=peers_payload())]
    docs = ["--docs", *map(str, pages)]
    performance_page.main([*files, *docs])
    assert pages[0].read_text().endswith(kept)
    assert "| RePlay, SASRec on likes | 9.00 (4.5 x) |" in pages[0].read_text()
    assert "575,281 likes (from 4) of 6,037 users" in pages[1].read_text()
    with pytest.raises(SystemExit, match="No page has markers of peers-ml-1m"):
        performance_page.main([*files, "--docs", str(written(tmp_path, other={})[0])])
    with pytest.raises(SystemExit, match="No page has markers of peers-ml-1m"):
        performance_page.main([*files, "--docs", str(pages[0])])
    with pytest.raises(SystemExit, match=r"unknown\.json is not named like what is known"):
        performance_page.make_tables(written(tmp_path, unknown={"machine": MACHINE}))


def test_each_marker_of_the_pages_is_written_by_a_script_that_exists():
    pages = (ROOT / "docs" / f"performance{end}.md" for end in ("", "-details"))
    text = "".join(page.read_text() for page in pages)
    folders = {part.split("/")[0] for part in text.split("<!-- results:")[1:]}
    runs = {folder for folder in folders if folder.startswith("peers-")}
    assert len(runs) >= 4 and folders - runs == {*performance_page.MAKERS, "peers", "expect"}
    for script in performance_page.MAKERS:
        assert (ROOT / "examples" / "benchmarks" / f"{script}.py").is_file()
