"""A report on a fitted model: a card that says what it was made of, what it does and how well.

All of it is plain numbers and words: text in a terminal, tables in a notebook, and a file of HTML
or Markdown to keep beside the model.
"""

from __future__ import annotations

import datetime
import inspect
import os
import platform
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

import posneg_rec
from posneg_rec.columns import columns_of
from posneg_rec.evaluation import Evaluation, compare, summarize
from posneg_rec.frames import as_frame, is_table
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    check_no_store,
    read_interactions,
    read_table,
)
from posneg_rec.ranks import FEEDBACKS, TargetRanks, Targets, last_step, ranks_of_targets
from posneg_rec.sequences import Histories, shorten

__all__ = ["Report", "Section", "report"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "narwhals", "torch")
_WORDS = {1: "liked", 0: "neutral", -1: "disliked"}
# Of longer trainings some epochs are shown.
_MOST_EPOCHS = 10
# With fewer users an interval says little.
_FEW_USERS = 50


@dataclass(frozen=True)
class Section:
    """A part of a report: a title and a table.

    Parameters
    ----------
    title : str
    header : tuple of str
        Titles of the columns; none of a list of facts.
    rows : tuple of tuple of str
    note : str, default=""
        Below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a model was made of, what it does and how well; made by :func:`report`.

    Printed as text, shown in a notebook as tables, written by :meth:`save`.

    Parameters
    ----------
    title : str
    sections : tuple of Section
    facts : dict of str to object
        The numbers on the data, by name.
    evaluations : dict of str to Evaluation
        Of the model, by the title, and of each baseline.
    warnings : tuple of str
        What is to be known before the numbers are believed.
    """

    title: str
    sections: tuple[Section, ...]
    facts: dict[str, Any] = field(repr=False)
    evaluations: dict[str, Evaluation] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the report as text."""
        parts = [self.title, "=" * len(self.title)]
        for section in self.sections:
            parts += ["", section.title, "-" * len(section.title)]
            rows = [row for row in (section.header, *section.rows) if row]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            parts += [
                "  ".join(
                    cell.ljust(width) for cell, width in zip(row, widths, strict=True)
                ).rstrip()
                for row in rows
            ]
            if section.note:
                parts.append(section.note)
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        parts = [f"<h2>{escape(self.title)}</h2>"]
        for section in self.sections:
            rows = "".join(_html_row(row, "td") for row in section.rows)
            head = _html_row(section.header, "th") if section.header else ""
            parts.append(f"<h3>{escape(section.title)}</h3><table>{head}{rows}</table>")
            if section.note:
                parts.append(f"<p>{escape(section.note)}</p>")
        return "".join(parts)

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        parts = [f"# {_markdown(self.title)}"]
        for section in self.sections:
            parts += ["", f"## {_markdown(section.title)}", ""]
            width = len(section.rows[0]) if section.rows else len(section.header)
            header = section.header or ("",) * width
            if width:
                parts.append(_markdown_row(tuple(map(_markdown, header))))
                parts.append(_markdown_row(("---",) * width))
            parts += [_markdown_row(tuple(map(_markdown, row))) for row in section.rows]
            if section.note:
                parts += ["", _markdown(section.note)]
        return "\n".join(parts) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, to be kept beside the model's.

        Parameters
        ----------
        path : path-like
            Ending in ``.html``, ``.md`` or ``.txt``, which says what is written. An existing file
            is replaced.

        Raises
        ------
        ValueError
            If the path ends in anything else.
        """
        writers = {".html": self._document, ".md": self.to_markdown, ".txt": self._text}
        suffix = Path(path).suffix.lower()
        if suffix not in writers:
            raise ValueError(
                f"path must end in one of {', '.join(writers)}, which says what is written, got "
                f"{shorten(str(path))}."
            )
        Path(path).write_text(writers[suffix](), encoding="utf-8")

    def _text(self) -> str:
        return f"{self}\n"

    def _document(self) -> str:
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body>{self._repr_html_()}</body></html>\n"
        )


_STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2em .8em .2em 0;text-align:left;border-bottom:1px solid #8884}"
)


def report(
    model: Any,
    interactions: Any,
    feedback: Any = None,
    *,
    baselines: Mapping[str, Any] | None = None,
    targets: Targets | NDArray[np.bool_] = "last",
    k: int = 10,
    title: str | None = None,
    n_bootstraps: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Report:
    """Report on a fitted model and on the rows that it is judged by.

    Parameters
    ----------
    model : fitted recommender, or a pipeline that ends in one
    interactions, feedback
        Rows to judge by and to tell facts of, as in :func:`~posneg_rec.metrics.evaluate`: those
        of the fit and the held-out ones together, say, where `targets` names the latter.
    baselines : mapping of str to fitted recommender, default=None
        What else is asked the same, by a name to show: whatever has ``target_ranks``.
    targets : {"last", "all"} or bool ndarray of shape (n_samples,), default="last"
        Rows to predict.
    k : int, default=10
        Length of the recommended list.
    title : str, default=None
        The name of the model's class by default.
    n_bootstraps, confidence_level, random_state
        As in :func:`~posneg_rec.metrics.evaluate`.

    Returns
    -------
    report : Report

    Raises
    ------
    ValueError
        If a baseline has the title for a name, or as in :func:`~posneg_rec.metrics.evaluate`.

    Notes
    -----
    Warnings of the models stand in the report and are not issued.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.model_selection import TemporalSplit, held_out_mask
    >>> from posneg_rec.reporting import report
    >>> world = make_opposing_patterns(n_users=60, random_state=0)
    >>> X, y = world.interactions, world.feedback
    >>> train, test = next(TemporalSplit(quantile=0.7).split(X))
    >>> model = ContrastiveSeqRecommender(embedding_dim=16, max_epochs=2, random_state=0)
    >>> card = report(model.fit(X[train], y[train]), X[test], y[test],
    ...               targets=held_out_mask(train, test), random_state=0)
    >>> card.facts["users"]
    56
    """
    title = type(last_step(model)).__name__ if title is None else title
    models = {title: model, **(baselines or {})}
    if baselines is not None and title in baselines:
        raise ValueError(f"A baseline has the name of the model, {shorten(title)}: pass a title.")
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    bootstrap: dict[str, Any] = {
        "k": k,
        "n_bootstraps": n_bootstraps,
        "confidence_level": confidence_level,
        "random_state": seed,
    }
    interactions = as_frame(interactions)
    said: list[str] = []
    ranks: dict[str, TargetRanks] = {}
    for name, asked in models.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ranks[name] = ranks_of_targets(asked, interactions, feedback, targets=targets)
        said += [f"{name}: {warning.message}" for warning in caught]
    evaluations = {name: summarize(of_one, **bootstrap) for name, of_one in ranks.items()}
    differences = {
        name: compare(ranks[title], of_one, **bootstrap)
        for name, of_one in ranks.items()
        if name != title
    }
    events, histories = _read(model, interactions, feedback)
    facts = _data_facts(model, interactions, events, histories, ranks[title])
    said += _findings(model, evaluations, differences, facts, title)
    sections = (
        Section("Data", (), tuple((name, _shown(value)) for name, value in facts.items())),
        _feedback_section(model, events, feedback),
        _metrics_section(evaluations),
        *([_differences_section(differences, title)] if differences else []),
        _model_section(model),
        *_training_section(model),
        Section("Warnings", (), tuple((line,) for line in said) or (("none",),)),
        _versions_section(),
    )
    return Report(title, sections, facts, evaluations, tuple(said))


# -- What is told ------------------------------------------------------------------------------


def _read(model: Any, interactions: Any, feedback: Any) -> tuple[Interactions, Histories]:
    """Read the rows as the model does, before any transformer."""
    check_no_store(interactions)
    recommender = last_step(model)
    coding = getattr(recommender, "feedback_coding_", None) if feedback is not None else None
    events = read_interactions(
        interactions,
        feedback,
        positive_threshold=_threshold(recommender),
        feedback_coding=coding,
        **_columns_of(model),
    )
    return events, build_histories(events, ItemVocabulary(recommender.items_))


def _data_facts(
    model: Any, interactions: Any, events: Interactions, histories: Histories, ranks: TargetRanks
) -> dict[str, Any]:
    """Count what the rows hold, by name."""
    lengths = histories.lengths[histories.lengths > 0]
    users = np.repeat(np.arange(len(histories.lengths)), histories.lengths)
    n_of = {
        word: np.bincount(users[histories.signs == sign], minlength=len(histories.lengths))
        for sign, word in _WORDS.items()
    }
    has_events = histories.lengths > 0
    facts: dict[str, Any] = {
        "rows": events.n_rows,
        "rows left out, all fields missing": events.n_rows - len(events.signs),
    }
    if (n_masked := _n_masked(model, interactions, len(events.signs))) is not None:
        facts["rows left out by the transformers"] = n_masked
    facts |= {
        "users": int(has_events.sum()),
        "items": len(events.item_ids),
        "items that the model does not know": int(
            (ItemVocabulary(last_step(model).items_).encode(events.item_ids) < 0).sum()
        ),
        "events per user": f"{np.median(lengths):g} (from {lengths.min()} to {lengths.max()})",
        "users with one event": int((lengths == 1).sum()),
        "users without a like": int((has_events & (n_of["liked"] == 0)).sum()),
        "users without a dislike": int((has_events & (n_of["disliked"] == 0)).sum()),
        "share of repeats": _share(int(_repeats(events).sum()), len(events.signs)),
    }
    if histories.times is None:
        facts["time"] = "none: the order of the rows"
    else:
        same_user = users[1:] == users[:-1]
        ties = int((same_user & (histories.times[1:] == histories.times[:-1])).sum())
        facts["time"] = _period(histories)
        facts["share of ties in time"] = _share(ties, int(same_user.sum()))
    facts["targets"] = len(ranks)
    facts["targets that cannot be recommended"] = int((ranks.ranks > ranks.n_items).sum())
    return facts


def _repeats(events: Interactions) -> NDArray[np.bool_]:
    """Tell which events meet an item of their user again, unknown items as well."""
    pairs = np.column_stack([events.user_codes, events.item_codes])
    first = np.unique(pairs, axis=0, return_index=True)[1]
    repeats = np.full(len(pairs), True)
    repeats[first] = False
    return repeats


def _n_masked(model: Any, interactions: Any, n_read: int) -> int | None:
    """Count the rows that the transformers of a pipeline mask; None without transformers."""
    if not (hasattr(model, "steps") and len(model.steps) > 1 and is_table(interactions)):
        return None
    transformed = model[:-1].transform(interactions)
    kept = read_table(transformed, **columns_of(model[-1]))
    return n_read - len(kept.user_codes)


def _period(histories: Histories) -> str:
    assert histories.times is not None
    ends = np.array([histories.times.min(), histories.times.max()])
    if histories.time_unit is not None:
        ends = ends.astype(f"M8[{histories.time_unit}]").astype("M8[s]")
    return f"from {ends[0]} to {ends[1]}"


def _feedback_section(model: Any, events: Interactions, feedback: Any) -> Section:
    """Tell what the feedback is read as: which values, how many."""
    values = None
    if feedback is not None:
        raw = np.asarray(feedback, dtype=object)
        if raw.shape == (events.n_rows,):
            values = raw[events.rows]
    rows = []
    for sign, word in _WORDS.items():
        of_sign = events.signs == sign
        shown = ""
        if values is not None and of_sign.any():
            low, high = min(values[of_sign]), max(values[of_sign])
            shown = f"{low}" if low == high else f"{low} to {high}"
        n = int(of_sign.sum())
        rows.append((word, shown, f"{n}", _share(n, len(of_sign))))
    threshold = _threshold(last_step(model))
    note = f"Read as {events.feedback_coding!r}"
    note += "." if threshold is None else f", by positive_threshold={threshold!r}."
    return Section("Feedback", ("read as", "values", "rows", "share"), tuple(rows), note)


def _metrics_section(evaluations: Mapping[str, Evaluation]) -> Section:
    one = next(iter(evaluations.values()))
    note = (
        f"{one.n_liked} liked and {one.n_disliked} disliked targets, ranked among all items. "
        f"{one._caption()}."
    )
    return Section("How well it ranks", *_by_metric(evaluations), note)


def _differences_section(differences: Mapping[str, Evaluation], title: str) -> Section:
    note = "Paired: of the same resampled users. An interval without 0 is more than chance."
    return Section(f"{title} less the others", *_by_metric(differences), note)


def _by_metric(
    evaluations: Mapping[str, Evaluation],
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Make a table with a column for each model."""
    rows = tuple(
        (
            f"{metric}@{next(iter(evaluations.values())).k} {sign}",
            *(evaluation._cell(f"{metric}_{sign}") for evaluation in evaluations.values()),
        )
        for metric in ("hit_rate", "ndcg")
        for sign in FEEDBACKS
    )
    return ("", *evaluations), rows


def _model_section(model: Any) -> Section:
    """Tell the settings: what was changed from the defaults, and what the data decided."""
    recommender = last_step(model)
    rows = [("class", type(recommender).__name__)]
    if hasattr(model, "steps"):
        rows.append(("pipeline", " > ".join(type(step).__name__ for _, step in model.steps)))
    for name, value in {
        "items in the catalogue": len(recommender.items_),
        "numbers in the weights": _n_weights(recommender),
        "epochs": getattr(recommender, "n_iter_", None),
        "seen items are left out": getattr(recommender, "excludes_seen_", None),
        "precision in training": getattr(recommender, "precision_", None),
    }.items():
        if value is not None:
            rows.append((name, _shown(value)))
    if hasattr(recommender, "get_params"):
        defaults = _defaults(recommender)
        rows += [
            (name, shorten(value))
            for name, value in recommender.get_params(deep=False).items()
            if name == "dislike_aversion" or name not in defaults or value != defaults[name]
        ]
    return Section(
        "Model", (), tuple(rows), "Parameters that are not listed have their default values."
    )


def _defaults(recommender: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(recommender)).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
    }


def _training_section(model: Any) -> list[Section]:
    """Show the learning curve: some epochs, the best one among them."""
    history = getattr(last_step(model), "history_", None)
    if not history or not history["epoch"]:
        return []
    columns = [name for name in history if name != "epoch" and any(_told(history[name]))]
    n_epochs = len(history["epoch"])
    shown = set(np.linspace(0, n_epochs - 1, min(n_epochs, _MOST_EPOCHS)).astype(int).tolist())
    best = _best_epoch(history)
    rows = []
    for epoch in sorted(shown | ({best} if best is not None else set())):
        cells = [
            "" if history[name][epoch] is None else f"{history[name][epoch]:.4g}"
            for name in columns
        ]
        rows.append((f"{history['epoch'][epoch]}{' (best)' if epoch == best else ''}", *cells))
    header = ("epoch", *(name.replace("_", " ") for name in columns))
    note = "Losses in nats; the validation score is NDCG@10 on likes."
    return [Section("Training", header, tuple(rows), note)]


def _told(values: Iterable[Any]) -> list[bool]:
    return [value is not None for value in values]


def _best_epoch(history: Mapping[str, list[Any]]) -> int | None:
    scores = np.array(history.get("validation_score", []), dtype=np.float64)
    return int(np.nanargmax(scores)) if np.isfinite(scores).any() else None


def _findings(
    model: Any,
    evaluations: Mapping[str, Evaluation],
    differences: Mapping[str, Evaluation],
    facts: Mapping[str, Any],
    title: str,
) -> list[str]:
    """Say what is to be known before the numbers are believed."""
    said = []
    own = evaluations[title]
    for n, word in ((own.n_liked, "liked"), (own.n_disliked, "disliked")):
        if not n:
            said.append(f"No target is {word}: nothing is known of what becomes of such items.")
    if own.n_users < _FEW_USERS:
        said.append(f"{own.n_users} users have targets: intervals of so few are rough.")
    lost = facts["targets that cannot be recommended"]
    if lost > 0.1 * facts["targets"]:
        said.append(
            f"{lost} of {facts['targets']} targets cannot be recommended (unknown to the model, "
            "or seen before) and count as missed."
        )
    for name, difference in differences.items():
        low, high = difference.intervals["ndcg_delta"]
        if low <= 0 and not np.isnan(low):
            how = "better" if high < 0 else "not measurably worse"
            said.append(f"{name} is {how}: likes above dislikes, by NDCG@{own.k}.")
    history = getattr(last_step(model), "history_", None)
    if history and history["epoch"]:
        last = len(history["epoch"]) - 1
        if last and _best_epoch(history) == last:
            said.append(
                "The validation score was the best in the last epoch: more epochs may do better."
            )
    return said


def _versions_section() -> Section:
    rows = [("posneg-rec", posneg_rec.__version__), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            continue
    rows.append(("made on", datetime.datetime.now(datetime.UTC).date().isoformat()))
    return Section("Versions", (), tuple(rows))


# -- Small things ------------------------------------------------------------------------------


def _columns_of(model: Any) -> dict[str, Any]:
    """Columns as the first step has them that knows any."""
    steps = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    knows = next((step for step in steps if hasattr(step, "user_column")), None)
    return {} if knows is None else columns_of(knows)


def _threshold(recommender: Any) -> Any:
    """Return the threshold that the fit read feedback by, which may have been set anew since."""
    fitted = getattr(recommender, "fitted_", recommender)
    return getattr(fitted, "positive_threshold", None)


def _n_weights(recommender: Any) -> int | None:
    weights = getattr(recommender, "weights_", None)
    return None if weights is None else sum(value.size for value in weights.values())


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}" if total else "-"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _html_row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _markdown(text: str) -> str:
    """Make text that means nothing to Markdown or HTML."""
    escaped = escape(text, quote=False)
    for mark in "\\`*_{}[]|#":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
