"""Progress: one line where it can be updated, lines in a log, a word where all is silent."""

import io
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from sklearn.callback import ProgressBar
from tiny import X, Y, tiny

from posneg_rec import progress
from posneg_rec.progress import Progress


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
    with Progress(12, 1) as told:
        told.show(log_of(3))
        told.show(log_of(12, 0.25))
    assert capsys.readouterr() == (
        "",
        "epoch  3/12 [#####...............]  loss 2.5000  1.2 s\n"
        "epoch 12/12 [####################]  loss 2.5000  validation NDCG@10 0.2500  1.2 s\n",
    )


def test_a_terminal_has_one_line_that_is_ended(terminal):
    with Progress(2, 1) as told:
        told.show(log_of(1))
        told.show(log_of(2))
        assert "\n" not in terminal.getvalue()
    written = terminal.getvalue()
    assert written.endswith("\x1b[K\n") and written.count("\n") == 1
    assert [part[:9] for part in written.split("\r")[1:]] == ["epoch 1/2", "epoch 2/2"]


def test_a_line_is_ended_whatever_ends_the_fit(terminal):
    with pytest.raises(KeyboardInterrupt), Progress(9, 1) as told:
        told.show(log_of(1))
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\n")
    before = terminal.getvalue()
    with Progress(9, 1):
        pass
    assert terminal.getvalue() == before  # nothing begun, nothing to end


def test_more_verbose_is_a_line_for_each_epoch_in_a_terminal_too(terminal, notebook):
    with Progress(2, 2) as told:
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
    with Progress(2, 1) as told:
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
    with Progress(9, 0) as told:
        told._start += 1000  # it has not taken long
        told.show(log_of(1))
    assert caplog.records == []
