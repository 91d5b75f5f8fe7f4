"""All data sets in one queue, on two tiny worlds."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))
sys.path.append(str(Path(__file__).parents[1] / "examples" / "benchmarks"))
import all_sets
import reproduce_paper
from all_sets import main, pack, unpack
from reproduce_paper import Job, jobs_of, read, run

METHODS = ["default", "item-item", "popular-recent"]
TINY = {"embedding_dim": 8, "n_layers": 1, "max_len": 10, "max_epochs": 2, "n_iter_no_change": 2}
SETS = {
    "small": all_sets.DataSet("Small", "small.csv", 4, ("P1", "P1-validation", "P3")),
    "large": all_sets.DataSet("Large", "large.csv", 4, ("P3", "LOO")),
    "absent": all_sets.DataSet("Absent", "absent.csv", 4, ("P1",)),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(reproduce_paper, "QUICK", TINY)
    monkeypatch.setattr(reproduce_paper, "N_BOOTSTRAPS", 20)
    monkeypatch.setattr(all_sets, "SETS", SETS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, n_users in (("small", 40), ("large", 60)):
        items = np.concatenate([rng.choice(40, size=10, replace=False) for _ in range(n_users)])
        pd.DataFrame(
            {
                "user": np.repeat(np.arange(n_users), 10),
                "item": items,
                "time": rng.integers(0, 100, size=len(items)) * 86_400,
                "rating": np.where(items < 20, 5, 2),
            }
        ).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """The folder of a whole run of two sets, and its arguments."""
    out = tmp_path_factory.mktemp("results")
    arguments = ["--data-dir", str(data), "--out", str(out), "--quick", "--device", "cpu"]
    arguments += ["--methods", *METHODS, "--seeds", "0", "--aversions", "0", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce_paper, "QUICK", TINY)
        patch.setattr(reproduce_paper, "N_BOOTSTRAPS", 20)
        patch.setattr(all_sets, "SETS", SETS)
        main(arguments)
    return out, arguments


def files_of(out):
    return {str(path.relative_to(out)) for path in out.rglob("*.npz")}


def test_one_command_makes_every_set_and_says_what_is_absent(made, capsys):
    out, arguments = made
    # The default is ranked without its memory as well.
    names = [f"{method}-0.npz" for method in (*METHODS, "without-memory")]
    folders = ["small", *(f"{name}/P3-{fold}" for name in ("small", "large") for fold in range(5))]
    folders.append("large/LOO")
    assert files_of(out) == {f"{folder}/{name}" for folder in folders for name in names}
    main([*arguments, "--dry-run"])
    printed = capsys.readouterr().out
    assert "absent.csv does not exist: absent is left out." in printed
    assert printed.endswith("36 fits\n")


def test_each_user_of_p3_is_tested_once(made, data):
    for name in ("small", "large"):
        report = json.loads((made[0] / name / "report.json").read_text())
        values = report["protocols"]["P3"]["values"]
        assert set(values) == set(METHODS)
        n_users = pd.read_csv(data / f"{name}.csv")["user"].nunique()
        assert all(value["n_users"] == n_users for value in values.values())
        assert all(
            value["n_liked"] + value["n_disliked"] == 5 * n_users for value in values.values()
        )


def test_all_is_reported_together(made):
    out, _ = made
    together = json.loads((out / "all_sets.json").read_text())
    assert list(together) == ["small", "large"]
    assert together["large"] == json.loads((out / "large" / "report.json").read_text())
    page = (out / "all_sets.md").read_text()
    assert page.index("## small, P1\n") < page.index("## small, P3\n") < page.index("## large, LOO")
    values = together["large"]["protocols"]["LOO"]["values"]
    more = values["default"]["hit_rate_liked"] - values["item-item"]["hit_rate_liked"]
    summary = page[page.index("## large, LOO") :]
    (line,) = [
        line
        for line in summary.split("\n\n")[1].splitlines()
        if line.startswith("| item-item (EASE)")
    ]
    assert line.split("|")[3].strip(" *").startswith(f"{more:+.4f} [")
    if "matplotlib" in sys.modules:
        assert (out / "all_sets.png").stat().st_size > 10_000
        assert (out / "results.png").stat().st_size > 10_000


def test_a_reader_of_one_page_sees_of_each_set_what_has_most_targets(made):
    pytest.importorskip("matplotlib")
    reports = json.loads((made[0] / "all_sets.json").read_text())
    titles = [
        [axes.get_title() for axes in all_sets.draw(reports, one_each=one_each).axes if axes.axison]
        for one_each in (True, False)
    ]
    assert titles[0] == ["Small, new users", "Large, new users"]
    assert len(titles[1]) == sum(
        protocol in all_sets.PANELS
        for report in reports.values()
        for protocol in report["protocols"]
    )


def test_aversions_of_all_folds_are_joined(made):
    report = json.loads((made[0] / "small" / "report.json").read_text())
    for protocol in ("P1", "P3"):
        swept = report["aversions"][protocol]["default"]
        own = str(float(report["methods"]["default"]["dislike_aversion"]))
        assert list(swept) == ["0.0", "2.0", own]
        assert swept[own] == report["protocols"][protocol]["values"]["default"]
        assert swept["0.0"]["n_users"] == swept[own]["n_users"]


def test_what_was_chosen_is_reported(made):
    report = json.loads((made[0] / "large" / "report.json").read_text())
    found = report["methods"]["popular-recent"]["found"]
    assert set(found) == {"LOO, seed 0", *(f"P3-{fold}, seed 0" for fold in range(5))}
    for choice in found.values():
        best = choice["values"][int(np.argmax(choice["ndcg_liked"]))]
        assert choice["value"] == best


def test_without_time_nothing_starts_and_nothing_is_lost(made, data, tmp_path, capsys):
    _, arguments = made
    arguments = [str(tmp_path) if part == str(made[0]) else part for part in arguments]
    main([*arguments, "--budget-seconds", "0"])
    printed = capsys.readouterr().out
    assert "36 fits are left for another run" in printed
    assert "has no results yet" in printed
    assert not files_of(tmp_path)


def test_the_budget_ends_the_starting_of_jobs(data, tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(reproduce_paper.time, "monotonic", lambda: now[0])
    jobs = jobs_of(str(data / "small.csv"), 4, tmp_path, ["popular"], ["P3"], [0])
    done = []

    def make(job, progress):
        done.append(job)
        now[0] += 10
        return True

    assert run(jobs, budget=25, make=make) == (0, 2)
    assert done == jobs[:3]  # the third began at 20
    assert "2 fits are left" in capsys.readouterr().out


def test_longest_jobs_go_first_and_seeds_one_after_the_other(data):
    class Args:
        data_dir, sets, protocols, methods = str(data), ["small", "large"], ["P3"], METHODS
        seeds, aversions, quick, device, precision = [3, 1], [], True, "cpu", "auto"

    jobs = all_sets.all_jobs(Args, Path("out"))
    assert [job.seed for job in jobs] == [3] * 30 + [1] * 10  # what has no seed runs once
    first = [(job.method, job.out.name) for job in jobs[:30:5]]
    assert first[:2] == [("default", "large"), ("default", "small")]
    assert first[-1] == ("popular-recent", "small")


def _make_or_die(job, progress):
    if job.method == "popular":
        os._exit(1)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(job.path, meta="{}")
    return True


def test_the_death_of_a_worker_is_not_the_end(tmp_path, capsys):
    methods = ["popular", "item-item", "taste", "popular-liked"]
    jobs = jobs_of("", 4, tmp_path, methods, ["LOO"], [0])
    n_failed, n_left = run(jobs, 2, make=_make_or_die)
    assert n_left == 0
    assert 1 <= n_failed <= 2  # one that was running beside it twice may be among them
    assert len(files_of(tmp_path)) == 4 - n_failed
    assert not jobs[0].path.exists()
    assert "A worker died" in capsys.readouterr().out


def test_archives_are_small_and_whole(made, tmp_path):
    out, arguments = made
    most = max(path.stat().st_size for path in out.rglob("*.*")) + 10_000
    pack(out, tmp_path / "packed", max_bytes=most)
    archives = list((tmp_path / "packed").iterdir())
    assert len(archives) > 1
    assert all(path.stat().st_size <= most + 10_240 for path in archives)  # tar's last block
    again = tmp_path / "again"
    main(
        [
            *(str(again) if part == str(out) else part for part in arguments),
            "--unpack",
            str(tmp_path / "packed"),
            "--report-only",
        ]
    )
    assert files_of(again) == files_of(out)
    for name in files_of(out):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    assert (again / "all_sets.json").read_text() == (out / "all_sets.json").read_text()


def test_what_is_there_is_not_replaced(made, tmp_path):
    out, _ = made
    pack(out, tmp_path / "packed")
    mine = tmp_path / "again" / sorted(files_of(out))[0]
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    unpack(tmp_path / "packed", tmp_path / "again")
    assert mine.read_bytes() == b"mine"


def test_files_take_little_room(made):
    for path in made[0].rglob("*.npz"):
        _, arrays = read(path)
        assert not any(array.dtype == np.int64 for array in arrays.values())


def test_device_is_no_reason_to_fit_again_but_precision_is(made, data):
    job = Job(
        str(data / "small.csv"),
        4,
        made[0] / "small",
        "time",
        "default",
        0,
        quick=True,
        device="cpu",
    )
    assert reproduce_paper.is_made(replace(job, device="cuda"))
    with pytest.raises(SystemExit, match="other settings"):
        reproduce_paper.is_made(replace(job, precision="float32"))
