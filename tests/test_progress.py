"""Progress: one line where it can be updated, lines in a log, a word where all is silent."""

import io
import logging
import re
import sys
from copy import copy
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_equal
from sklearn.callback import ProgressBar
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec import fitted, progress, scoring, serving
from posneg_rec.baselines import PopularityRecommender
from posneg_rec.progress import EpochProgress, ShareProgress


def log_of(epoch, score=None):
    return SimpleNamespace(epoch=epoch, losses={"loss": 2.5}, validation_score=score, seconds=1.25)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # Only as the room sees it: pytest puts its own streams into `sys` before each test.
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules=sys.modules))
    return stream


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook's kernel offers, and what was shown by it: texts by display."""
    shown = []

    class Handle:
        def update(self, content, raw):
            assert raw
            shown[-1] = content["text/plain"]

    def display(content, raw, display_id):
        assert raw and display_id
        shown.append(content["text/plain"])
        return Handle()

    class ZMQInteractiveShell:
        pass

    ipython, of_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = ZMQInteractiveShell
    of_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    return shown


def test_a_log_has_a_line_for_each_epoch(capsys):
    with EpochProgress(12, 1) as told:
        told.show(log_of(3))
        told.show(log_of(12, 0.25))
    assert capsys.readouterr() == (
        "",
        "epoch  3/12 [#####...............]  loss 2.5000  1.2 s\n"
        "epoch 12/12 [####################]  loss 2.5000  validation NDCG@10 0.2500  1.2 s\n",
    )


def test_a_terminal_has_one_line_that_is_ended(terminal):
    with EpochProgress(2, 1) as told:
        told.show(log_of(1))
        told.show(log_of(2))
        assert "\n" not in terminal.getvalue()
    written = terminal.getvalue()
    assert written.endswith("\x1b[K\n") and written.count("\n") == 1
    assert [part[:9] for part in written.split("\r")[1:]] == ["epoch 1/2", "epoch 2/2"]


def test_a_line_is_ended_whatever_ends_the_fit(terminal):
    with pytest.raises(KeyboardInterrupt), EpochProgress(9, 1) as told:
        told.show(log_of(1))
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\n")
    before = terminal.getvalue()
    with EpochProgress(9, 1):
        pass
    assert terminal.getvalue() == before  # nothing begun, nothing to end


def test_more_verbose_is_a_line_for_each_epoch_in_a_terminal_too(terminal, notebook):
    with EpochProgress(2, 2) as told:
        told.show(log_of(1))
        told.show(log_of(2))
    lines = terminal.getvalue().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"] and notebook == []
    assert "\r" not in terminal.getvalue()


def test_a_notebook_has_one_display_and_nothing_in_red(notebook, capsys):
    model = tiny(verbose=1).fit(X, Y)
    (line,) = notebook
    assert line.startswith("epoch 2/2 [####################]")
    assert f"loss {model.history_['loss'][1]:.4f}" in line
    tiny(verbose=True).fit(X, Y)
    assert len(notebook) == 2
    assert capsys.readouterr() == ("", "")


def test_ipython_in_a_terminal_is_a_terminal(notebook, terminal):
    sys.modules["IPython"].get_ipython = lambda: None
    with EpochProgress(2, 1) as told:
        told.show(log_of(1))
    assert notebook == [] and terminal.getvalue().startswith("\repoch 1/2")


@pytest.fixture
def long_fits(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="posneg_rec")  # whatever ran before
    monkeypatch.setattr(progress, "_told", False)
    monkeypatch.setattr(progress, "_LONG", 0.0)


def test_a_long_silent_fit_says_once_how_to_see_more(long_fits, caplog, capsys):
    for _ in range(2):
        tiny().fit(X, Y)
    (record,) = caplog.records
    assert record.name == "posneg_rec" and record.levelno == logging.WARNING
    assert "1 of at most 2 epochs" in record.message and "verbose=1" in record.message
    assert capsys.readouterr() == ("", "")


def test_who_sees_progress_or_has_no_more_epochs_is_told_nothing(long_fits, caplog):
    tiny(verbose=1).fit(X, Y)
    tiny(max_epochs=1).fit(X, Y)
    tiny().fit(X, Y).partial_fit(X, Y)
    caplog.clear()
    progress._told = False
    tiny().set_callbacks(ProgressBar()).fit(X, Y)
    assert caplog.records == []
    with EpochProgress(9, 0) as told:
        told._start += 1000  # it has not taken long
        told.show(log_of(1))
    assert caplog.records == []


# -- What is no epoch ---------------------------------------------------------------------------

MANY = {
    "all of a table": lambda model: model.recommend(X, feedback=Y),
    "histories": lambda model: model.recommend(HISTORIES, feedback=FEEDBACKS),
    "groups": lambda model: model.recommend(
        X, k=3, feedback=Y, groups=np.arange(len(model.items_)) % 3, max_per_group=1
    ),
    "variety": lambda model: model.recommend(X, k=3, feedback=Y, diversity=0.5),
    "targets": lambda model: model.target_ranks(X, Y, targets="all").ranks,
    "aversions": lambda model: [
        ranks.ranks for ranks in model.target_ranks(X, Y, targets="all", dislike_aversion=[0, 2])
    ],
}


@pytest.fixture(scope="module")
def model():
    return tiny().fit(X, Y)


@pytest.fixture
def eager(monkeypatch):
    """As if all took so long that it is told, and were done in many jobs."""
    for name in ("_DELAY", "_OFTEN", "_SELDOM", "_EACH"):
        monkeypatch.setattr(progress, name, 0.0)
    monkeypatch.setattr(scoring, "_TILE_QUERIES", 4)
    monkeypatch.setattr(scoring, "_MAX_ROW_SCORES", 100)
    monkeypatch.setattr(scoring, "_MAX_POOLED", 128)
    monkeypatch.setattr(fitted, "_MAX_SEEN", 50)


def shares(written):
    return [int(share) for share in re.findall(r"(\d+) %", written)]


def opened(model, door):
    """Open what a model writes by one of the two doors."""
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return type(model).load(file) if door == "estimator" else serving.load(file)


@pytest.mark.parametrize("what", MANY)
def test_many_answers_are_told_from_the_first_to_the_last(what, model, eager, terminal):
    silent = MANY[what](model)
    assert terminal.getvalue() == ""
    assert_equal(MANY[what](copy(model).set_params(verbose=1)), silent)
    told = shares(terminal.getvalue())
    assert len(told) > 10 and told == sorted(told) and told[-1] == 100 and told[0] < 20
    assert told.count(100) == 1 and terminal.getvalue().count("\n") == 1
    title = "Recommending to 40 users ["
    if what in ("targets", "aversions"):
        title = f"Ranking {len(X) - 40} targets ["
    assert terminal.getvalue().startswith(f"\r{title}")


@pytest.mark.parametrize("door", ["estimator", "serving"])
def test_both_doors_tell(door, model, eager, terminal, caplog):
    opened_model = opened(model, door)
    opened_model.verbose = 1
    opened_model.recommend(HISTORIES)
    assert shares(terminal.getvalue())[-1] == 100


def test_one_history_is_told_nothing(model, eager, terminal, long_fits, caplog, monkeypatch):
    model = copy(model).set_params(verbose=1)
    monkeypatch.setattr(fitted, "ShareProgress", None)  # it is not even made
    model.recommend(HISTORIES[0])
    model.recommend(HISTORIES[0], diversity=0.5)
    model.score_items(HISTORIES[0])
    assert terminal.getvalue() == "" and caplog.records == []


def test_a_notebook_has_one_display_of_many_answers(model, eager, notebook, capsys):
    copy(model).set_params(verbose=1).recommend(HISTORIES)
    (line,) = notebook
    assert line.startswith("Recommending to 40 users [####################] 100 %")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def told_at(clock, verbose, seconds):
    """Tell a share at each of some seconds, the last of which is the end."""
    clock.seconds = 0.0
    with ShareProgress("Ranking 9 targets", verbose) as told:
        for second in seconds:
            clock.seconds = second
            told.show(second / seconds[-1])


def test_what_is_over_at_once_is_told_nothing(clock, terminal):
    told_at(clock, 1, [0.3, 0.6, 0.9])
    assert terminal.getvalue() == ""


def test_a_line_comes_after_a_second_and_is_updated_ten_times_a_second(clock, terminal):
    told_at(clock, 1, [0.5, 1.0, 1.05, 1.25, 2.0])
    assert shares(terminal.getvalue()) == [50, 62, 100]


def test_a_log_has_few_lines_and_the_last(clock, capsys):
    told_at(clock, 1, [4.0, 8.0, 12.0, 16.0, 24.0, 25.0])
    assert capsys.readouterr().err.splitlines() == [
        "Ranking 9 targets [##########..........]  48 %  12.0 s",
        "Ranking 9 targets [###################.]  96 %  24.0 s",
        "Ranking 9 targets [####################] 100 %  25.0 s",
    ]
    told_at(clock, 1, [4.0, 8.0])
    assert capsys.readouterr().err == ""
    told_at(clock, 2, [0.5, 4.0, 8.0])
    assert shares(capsys.readouterr().err) == [50, 100]


def test_a_share_that_is_unknown_has_no_bar(clock, capsys):
    with ShareProgress("Downloading a file", 2) as told:
        clock.seconds = 3.0
        told.show(None, "1.5 MB")
    assert capsys.readouterr().err == "Downloading a file  3.0 s  1.5 MB\n"


def test_further_stages_tell_nothing(eager, terminal):
    with ShareProgress("Ranking", 1) as told:
        watch = told.stages(2, 0.5, 1.0)
        for n_jobs in (2, 1, 3):
            assert list(watch("abc"[:n_jobs], n_jobs)) == list("abc"[:n_jobs])
    assert shares(terminal.getvalue()) == [62, 75, 100]


@pytest.mark.parametrize("door", ["estimator", "serving"])
def test_what_takes_long_in_silence_says_once_how_to_see_more(
    door, model, long_fits, eager, caplog, capsys
):
    silent = opened(model, door)
    for _ in range(2):
        silent.recommend(HISTORIES)
    (record,) = caplog.records
    assert record.message.startswith("Recommending to 40 users: ")
    assert "model.verbose = 1 shows" in record.message and "setLevel" in record.message
    assert capsys.readouterr() == ("", "")


def test_a_fit_and_what_has_no_verbose_tell_no_ranks(eager, long_fits, caplog, capsys):
    tiny(verbose=1).fit(X, Y)
    written = capsys.readouterr().err
    assert "epoch 2/2" in written and "Ranking" not in written
    PopularityRecommender().fit(X, Y).recommend(X)
    assert caplog.records == []
