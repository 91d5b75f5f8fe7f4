"""The model file: numbered formats, JSON and plain arrays, no pickle.

Nothing in a file is code, so a file from elsewhere can be read without trusting it: whatever it
says is checked before it is believed, and what is wrong with it is one error. A file of an older
format loads for ever; one of a newer format says which version of the library it needs.

``docs/files.md`` describes the format. Neither scikit-learn nor torch is needed to import this.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

import posneg_rec
from posneg_rec import archive
from posneg_rec.archive import File, ModelFileError, Reader
from posneg_rec.inference import METHODS
from posneg_rec.memory import ItemMemory, ItemWeights, TasteWeights, WeighedMemory
from posneg_rec.sequences import N_GAP_TAGS

if TYPE_CHECKING:
    from posneg_rec.fitted import FittedModel

__all__ = [
    "FORMAT",
    "File",
    "ModelFileError",
    "check_format",
    "head",
    "read_model",
    "read_pipeline",
    "write_model",
    "write_pipeline",
]

#: Number of the file format this version writes. A constructor parameter, an array or a key that
#: joins or goes makes a new one.
FORMAT = 4

_Estimator = TypeVar("_Estimator")

_HEAD = {"format", "content", "written_by", "written_at"}
_WEIGHT, _MEMORY = "weights/", "memory/"
_RECOMMENDER = "ContrastiveSeqRecommender"
_CODINGS = ("liked", "binary", "signed", "graded")
_PRECISIONS = ("float32", "bfloat16")
# The terms of each method's loss, which its log has columns of.
_TERMS = {
    "joint": ("item_loss", "feedback_loss"),
    "pnfrec": ("positive_loss", "negative_loss", "contrastive_loss"),
}
_MOST_FLOAT32 = float(np.finfo(np.float32).max)
# The methods that a memory of items may stand beside.
_WITH_MEMORY = {"joint"}
_PLAIN = (
    "method",
    "n_heads",
    "feedback_coding",
    "positive_threshold",
    "excludes_seen",
    "precision",
)
_COLUMNS_IN = ("n_features_in", "feature_names_in")
_PASSTHROUGH = "passthrough"
# The options of a pipeline, but for its memory: what is in that folder is pickled.
_PIPELINE = ("verbose", "transform_input")
# What a file says of classes beyond their parameters and columns.
_FURTHER_KEYS = {_RECOMMENDER: {"ids", "fitted_on"}, "RareItemMasker": {"ids"}}


# -- Writing -----------------------------------------------------------------------------------


def write_model(file: File, estimator: Any) -> None:
    """Write a fitted recommender; what a path names is replaced in one step.

    Parameters
    ----------
    file : path-like or binary file object
    estimator : ContrastiveSeqRecommender

    Raises
    ------
    TypeError
        If a parameter or the ids cannot be written without pickle.
    ValueError
        If a parameter is not one that the constructor allows.
    """
    record, arrays = _record(_RECOMMENDER, estimator)
    archive.write(file, head("model") | record, arrays)


def write_pipeline(file: File, pipeline: Any, kinds: Mapping[str, type]) -> None:
    """Write a fitted pipeline.

    Parameters
    ----------
    file : path-like or binary file object
    pipeline : Pipeline
        Its steps are "passthrough" or of `kinds`.
    kinds : mapping of str to type
        The classes that have a place in a file, by name.

    Raises
    ------
    TypeError
        If a step is of another class, or holds what cannot be written without pickle.
    """
    steps: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for place, (name, estimator) in enumerate(pipeline.steps):
        if estimator is None or isinstance(estimator, str):
            steps.append({"name": name, "class": _PASSTHROUGH})
            continue
        kind = type(estimator).__name__
        if kinds.get(kind) is not type(estimator):
            raise TypeError(
                f"Step {name!r:.50} is of class {kind}, which has no place in a model file: that "
                f"holds {', '.join(kinds)} and 'passthrough'. Save with "
                "joblib.dump(pipeline, path) instead."
            )
        record, of_step = _record(kind, estimator)
        steps.append({"name": name, "class": kind} | record)
        arrays |= {f"{place}/{key}": value for key, value in of_step.items()}
    if pipeline.memory is not None:
        warnings.warn(
            f"memory={pipeline.memory!r:.50} is a folder of this machine and left out of the model "
            "file; set it again after loading.",
            UserWarning,
            stacklevel=3,
        )
    options = {name: getattr(pipeline, name) for name in _PIPELINE}
    header = head("pipeline") | {"params": _params_to_json(options), "steps": steps}
    archive.write(file, header, arrays)


def head(content: str) -> dict[str, Any]:
    """Return what the header of every file begins with."""
    return {
        "format": FORMAT,
        "content": content,
        "written_by": f"posneg-rec {posneg_rec.__version__}",
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _record(kind: str, estimator: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what a file holds of an estimator: JSON and arrays."""
    params = _params_to_json(estimator.get_params(deep=False))
    # What would not be read again is not written.
    estimator._validate_params()
    if kind == _RECOMMENDER:
        return _record_of_model(params, estimator.fitted_)
    state = {name: getattr(estimator, f"{name}_", None) for name in _COLUMNS_IN}
    record: dict[str, Any] = {"params": params, "state": _columns_to_json(state)}
    arrays: dict[str, NDArray[Any]] = {}
    if "ids" in _FURTHER_KEYS.get(kind, ()):
        record["ids"], arrays = _ids_to_arrays(estimator.items_)
    return record, arrays


def _record_of_model(
    params: dict[str, Any], fitted: FittedModel
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    state = _columns_to_json({name: getattr(fitted, name) for name in _COLUMNS_IN})
    state |= _params_to_json({name: getattr(fitted, name) for name in _PLAIN})
    state["history"] = _params_to_json(fitted.history)
    ids, arrays = _ids_to_arrays(fitted.items)
    arrays |= {name: getattr(fitted, name) for name in ("likes", "dislikes", "gap_edges")}
    arrays |= {_WEIGHT + name: value for name, value in fitted.weights.items()}
    state["memory"] = None
    if fitted.memory is not None:
        state["memory"] = {
            "mean": fitted.memory.items.mean,
            "fading": fitted.memory.items.fading,
            "user_left": fitted.memory.items.user_left,
            "next_weight": fitted.memory.next_weight,
            "taste_weights": list(fitted.memory.taste_weights),
        }
        own = fitted.memory.items.arrays()
        arrays |= {_MEMORY + name: value for name, value in own.items() if value.ndim}
    counts = {
        "n_items": len(fitted.items),
        "n_liked": int(fitted.likes.sum()),
        "n_disliked": int(fitted.dislikes.sum()),
        "n_epochs": fitted.n_iter,
    }
    return {"fitted_on": counts, "params": params, "state": state, "ids": ids}, arrays


def _columns_to_json(state: dict[str, Any]) -> dict[str, Any]:
    names, n = state["feature_names_in"], state["n_features_in"]
    return state | {
        "feature_names_in": None if names is None else [str.__str__(name) for name in names],
        "n_features_in": None if n is None else int(n),
    }


def _params_to_json(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _to_json(name, value) for name, value in params.items()}


def _to_json(name: str, value: Any) -> Any:
    """Turn a parameter into JSON: plain values, lists of them, and tuples, marked as such."""
    if isinstance(value, tuple | list):
        values = [_plain(name, value, part) for part in value]
        return {"tuple": values} if isinstance(value, tuple) else values
    return _plain(name, value, value)


def _plain(name: str, value: Any, part: Any) -> Any:
    if part is None or isinstance(part, bool | np.bool_):
        return None if part is None else bool(part)
    if isinstance(part, Integral):
        return int(part)
    if isinstance(part, str):
        return str.__str__(part)  # exactly, where numpy.str_ would lose NULs at its end
    if isinstance(part, float | np.floating) and np.isfinite(part):
        return float(part)
    raise TypeError(
        f"The parameter {name}={value!r:.50} cannot be written without pickle: a model file holds "
        "finite numbers, strings, booleans, None, and tuples and lists of them. Set another value "
        "(an int random_state, for one), or save with joblib.dump(model, path)."
    )


def _ids_to_arrays(ids: NDArray[Any]) -> tuple[str, dict[str, NDArray[Any]]]:
    """Return the kind of ids and the arrays that hold them, exactly."""
    if ids.dtype != object:
        return ids.dtype.name, {"items": ids}
    if all(isinstance(value, str) for value in ids):
        # Strings with halves of pairs, which are no Unicode, come back as they were.
        texts = [value.encode("utf-8", "surrogatepass") for value in ids]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return "str", {"items": np.frombuffer(b"".join(texts), np.uint8), "item_offsets": offsets}
    if all(isinstance(value, UUID) for value in ids):
        data = b"".join(value.bytes for value in ids)
        return "uuid", {"items": np.frombuffer(data, np.uint8).reshape(-1, 16)}
    names = sorted({type(value).__name__ for value in ids})
    raise TypeError(
        f"Item ids of type {', '.join(names)} have no place in a model file, which holds int, "
        "float, str and UUID ids. Save with joblib.dump(model, path) instead."
    )


# -- Reading -----------------------------------------------------------------------------------


def read_model(file: File, kind: type[_Estimator], *, mmap: bool = False) -> _Estimator:
    """Read a recommender that :func:`write_model` wrote.

    Parameters
    ----------
    file : path-like or binary file object
    kind : type
        The class of the recommender, the estimator's or the one that only answers.
    mmap : bool, default=False
        Whether the arrays are parts of the file, mapped into memory. They are checked all the
        same, which reads them once.

    Returns
    -------
    estimator
        Of class `kind`, fitted.

    Raises
    ------
    ModelFileError
        If the file is no model file, damaged, of a newer format, or says what cannot be.
    OSError
        If it cannot be opened.
    """
    with archive.reading(file, mmap=mmap) as reader:
        version = check_format(reader, "model")
        if version == 1:
            return _from_format_1(reader, kind)
        keys = _HEAD | {"params", "state"} | _FURTHER_KEYS[_RECOMMENDER]
        record = _keys(reader, reader.header, keys)
        return _estimator(reader, kind, record, _Arrays(reader, reader.names))


def read_pipeline(
    file: File, kind: type[_Estimator], kinds: Mapping[str, type], *, mmap: bool = False
) -> _Estimator:
    """Read a pipeline that :func:`write_pipeline` wrote.

    Parameters
    ----------
    file : path-like or binary file object
    kind : type
        The class of the pipeline.
    kinds : mapping of str to type
        The classes of steps that a file may hold, by name. Nothing is imported because a file
        names it.
    mmap : bool, default=False
        As in :func:`read_model`.

    Returns
    -------
    pipeline
        Of class `kind`, fitted.

    Raises
    ------
    ModelFileError, OSError
        As in :func:`read_model`.
    """
    with archive.reading(file, mmap=mmap) as reader:
        check_format(reader, "pipeline")
        header = _keys(reader, reader.header, _HEAD | {"params", "steps"})
        stored = header["steps"]
        if not isinstance(stored, list) or not stored:
            reader.refuse("has no steps")
        arrays: dict[str, set[str]] = {f"{place}/": set() for place in range(len(stored))}
        for array in reader.names:
            prefix, slash, name = array.partition("/")
            if prefix + slash not in arrays:
                reader.refuse(f"holds an array of no step, {array!r:.60}")
            arrays[prefix + slash].add(name)
        steps = [
            _step(reader, kinds, record, _Arrays(reader, names, prefix))
            for record, (prefix, names) in zip(stored, arrays.items(), strict=True)
        ]
        titles = [title for title, _ in steps]
        if len(set(titles)) < len(steps) or any("__" in title or not title for title in titles):
            reader.refuse("has steps whose names are empty, not distinct or hold '__'")
        if any(hasattr(step, "fitted_") for _, step in steps[:-1]):
            reader.refuse("has a recommender that is not the last step")
        params = _params(reader, _keys(reader, header["params"], set(_PIPELINE)))
        return _made(reader, kind, {"steps": steps} | params, complete=False)


def check_format(reader: Reader, content: str) -> int:
    """Check the format, and that the file holds what is asked for; return the format."""
    version: Any = reader.header.get("format")
    if not _is_int(version, 1):
        reader.refuse("is no posneg_rec model file: its header names no format")
    if version > FORMAT:
        reader.refuse(
            f"has model format {version!r:.50}; this version of posneg_rec reads formats up to "
            f"{FORMAT}. Upgrade posneg_rec to load it"
        )
    reader.check_entries()
    found = "model"
    if version > 1:
        reader.check_list()
        found = reader.header.get("content", found)
    if found != content:
        loads = {
            "model": "ContrastiveSeqRecommender.load",
            "pipeline": "RecommenderPipeline.load",
            "checkpoint": "fit(..., checkpoint=path)",
        }
        known = isinstance(found, str) and found in loads
        reader.refuse(
            f"holds a {found}, not a {content}: read it with {loads[found]}"
            if known
            else f"holds {found!r:.50}, which is neither a model nor a pipeline"
        )
    return int(version)


class _Arrays:
    """The arrays of one estimator in a file, of names that begin with a prefix there."""

    def __init__(self, reader: Reader, names: Collection[str], prefix: str = "") -> None:
        self._reader, self._prefix, self._left = reader, prefix, set(names)

    def take(self, name: str, dtype: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        self._left.discard(name)
        return self._reader.array(self._prefix + name, dtype, shape)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        names = sorted(name for name in self._left if name.startswith(_WEIGHT))
        return {name.removeprefix(_WEIGHT): self.take(name, "<f4") for name in names}

    def none_left(self) -> None:
        if self._left:
            self._reader.refuse(f"holds unknown arrays: {_named(self._left)}")


def _step(
    reader: Reader, kinds: Mapping[str, type], record: Any, arrays: _Arrays
) -> tuple[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        reader.refuse("has a step without a name")
    name, kind = record["name"], record.get("class")
    if kind == _PASSTHROUGH:
        _keys(reader, record, {"name", "class"})
        arrays.none_left()
        return name, _PASSTHROUGH
    if not isinstance(kind, str) or kind not in kinds:
        reader.refuse(f"has a step of class {kind!r:.50}, none of {', '.join(kinds)}")
    keys = {"name", "class", "params", "state"} | _FURTHER_KEYS.get(kind, set())
    return name, _estimator(reader, kinds[kind], _keys(reader, record, keys), arrays)


def _estimator(
    reader: Reader, kind: type[_Estimator], record: dict[str, Any], arrays: _Arrays
) -> _Estimator:
    """Make the fitted estimator that a record describes."""
    is_model = "fitted_on" in record
    expected = set(_COLUMNS_IN) | (set(_PLAIN) | {"history", "memory"} if is_model else set())
    # A served recommender stands for the estimator, and so do errors.
    name = _RECOMMENDER if is_model else None
    estimator: Any = _made(reader, kind, _params(reader, record["params"]), name=name)
    state = dict(_keys(reader, record["state"], expected))
    if is_model:
        state |= _params(reader, {"positive_threshold": state["positive_threshold"]})
        items = _ids(reader, record["ids"], arrays)
        state["memory"] = _memory(reader, state["memory"], arrays, len(items))
        estimator.fitted_ = _fitted(
            reader,
            state,
            items,
            arrays.weights(),
            {
                "likes": arrays.take("likes", "<i8"),
                "dislikes": arrays.take("dislikes", "<i8"),
                "gap_edges": arrays.take("gap_edges", "<f8"),
            },
        )
    else:
        n_features, names = _columns(reader, state)
        if n_features is None:
            reader.refuse("has a transformer that saw no columns")
        estimator.n_features_in_ = n_features
        if names is not None:
            estimator.feature_names_in_ = names
        if "ids" in record:
            estimator.items_ = _ids(reader, record["ids"], arrays, may_be_empty=True)
    arrays.none_left()
    return estimator


def _made(
    reader: Reader,
    kind: type[_Estimator],
    params: Mapping[str, Any],
    *,
    name: str | None = None,
    complete: bool = True,
) -> _Estimator:
    """Make an estimator of parameters that are checked as any others are."""
    known = set(kind._get_param_names())  # type: ignore[attr-defined]
    name = name or kind.__name__
    if unknown := set(params) - known:
        reader.refuse(f"has parameters that {name} does not know: {_named(unknown)}")
    if complete and (missing := known - set(params)):
        reader.refuse(f"lacks parameters of {name}: {_named(missing)}")
    try:
        estimator = kind(**params)
        estimator._validate_params()  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        reader.refuse(f"has a parameter that cannot be: {_cut(str(error), 200)}")
    return estimator


def _params(reader: Reader, stored: Any) -> dict[str, Any]:
    if not isinstance(stored, dict):
        reader.refuse("has no parameters")
    params = {}
    for name, value in stored.items():
        try:
            params[name] = _from_json(value)
        except TypeError:
            reader.refuse(f"has a value of parameter {name!r:.50} that no model is written with")
    return params


def _from_json(value: Any) -> Any:
    """Turn JSON into the parameter that it was."""
    if isinstance(value, dict):
        if value.keys() != {"tuple"} or not isinstance(value["tuple"], list):
            raise TypeError("no tuple")
        return tuple(_from_json(value["tuple"]))
    for part in value if isinstance(value, list) else [value]:
        if not (part is None or isinstance(part, bool | int | str) or _is_number(part)):
            raise TypeError("no plain value")
    return value


def _ids(reader: Reader, kind: Any, arrays: _Arrays, *, may_be_empty: bool = False) -> NDArray[Any]:
    """Read ids; they are distinct and none is missing."""
    if kind == "int64":
        ids = arrays.take("items", "<i8")
    elif kind == "float64":
        ids = arrays.take("items", "<f8")
    elif kind == "str":
        ids = _strings(reader, arrays.take("items", "|u1"), arrays.take("item_offsets", "<i8"))
    elif kind == "uuid":
        data = arrays.take("items", "|u1")
        if data.ndim != 2 or data.shape[1] != 16:
            reader.refuse(f"has UUIDs of shape {data.shape}")
        ids = _objects([UUID(bytes=row.tobytes()) for row in data])
    else:
        reader.refuse(f"has item ids of kind {kind!r:.50}, not int64, float64, str or uuid")
    return _checked_ids(reader, ids, may_be_empty)


def _strings(reader: Reader, text: NDArray[Any], offsets: NDArray[Any]) -> NDArray[np.object_]:
    if text.ndim != 1 or offsets.ndim != 1 or len(offsets) == 0:
        reader.refuse("has item ids of the wrong shape")
    if offsets[0] != 0 or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
        reader.refuse("has item ids whose offsets do not cut up their text")
    data, cuts = text.tobytes(), offsets.tolist()
    try:
        return _objects(
            [data[start:stop].decode("utf-8", "surrogatepass") for start, stop in pairwise(cuts)]
        )
    except UnicodeDecodeError:
        reader.refuse("has item ids that are no UTF-8")


def _objects(values: list[Any]) -> NDArray[np.object_]:
    return np.fromiter(values, dtype=object, count=len(values))


def _checked_ids(reader: Reader, ids: NDArray[Any], may_be_empty: bool = False) -> NDArray[Any]:
    if ids.ndim != 1 or (len(ids) == 0 and not may_be_empty):
        reader.refuse(f"has item ids of shape {ids.shape}")
    if ids.dtype.kind == "f" and not np.isfinite(ids).all():
        reader.refuse("has item ids that are no finite numbers")
    if ids.dtype.kind == "i" and (ids == np.iinfo(np.int64).min).any():
        reader.refuse("has an item id that stands for a missing one")
    n_distinct = len(set(ids)) if ids.dtype == object else len(np.unique(ids))
    if n_distinct != len(ids):
        reader.refuse(f"has item ids of which {len(ids) - n_distinct} repeat")
    return ids


# -- What a fitted model can be ----------------------------------------------------------------


def _fitted(
    reader: Reader,
    state: dict[str, Any],
    items: NDArray[Any],
    weights: dict[str, NDArray[np.float32]],
    arrays: dict[str, NDArray[Any]],
) -> FittedModel:
    """Make a fitted model of parts that go together."""
    from posneg_rec.fitted import FittedModel  # which reads tables, and imports what that takes

    method = _one_of(reader, "method", state["method"], METHODS)
    _one_of(reader, "feedback_coding", state["feedback_coding"], _CODINGS)
    _one_of(reader, "precision", state["precision"], _PRECISIONS)
    if not isinstance(state["excludes_seen"], bool):
        reader.refuse(f"has excludes_seen={state['excludes_seen']!r:.50}, neither true nor false")
    if not _is_threshold(state["positive_threshold"]):
        reader.refuse(f"has positive_threshold={state['positive_threshold']!r:.50}")
    if state["memory"] is not None and method not in _WITH_MEMORY:
        reader.refuse(f"has a memory of items, which method {method!r} does not have")
    _check_history(reader, method, state["history"])
    n_features, names = _columns(reader, state)

    n_items = len(items)
    n_heads = state["n_heads"]
    if not _is_int(n_heads, 1):
        reader.refuse(f"has n_heads={n_heads!r:.50}")
    _check_weights(reader, method, n_items, n_heads, weights)
    for name in ("likes", "dislikes"):
        counts = arrays[name]
        if counts.shape != (n_items,) or (counts < 0).any():
            reader.refuse(f"has {name} that are no counts of its {n_items} items")
    edges = arrays["gap_edges"]
    if edges.shape not in ((0,), (N_GAP_TAGS - 3,)):
        reader.refuse(f"has gap_edges of shape {edges.shape}, not (0,) or ({N_GAP_TAGS - 3},)")
    if not np.isfinite(edges).all() or (edges <= 0).any() or (np.diff(edges) < 0).any():
        reader.refuse("has gap_edges that are not positive and ascending")
    columns = {"n_features_in": n_features, "feature_names_in": names}
    return FittedModel(items=items, weights=weights, **state | columns | arrays)


def _memory(reader: Reader, stored: Any, arrays: _Arrays, n_items: int) -> WeighedMemory | None:
    """Make the memory that stands beside a model, if there is one."""
    if stored is None:
        return None
    if isinstance(stored, dict):
        if reader.header["format"] < 3:
            stored = {"fading": 0.0} | stored  # when all likes counted alike
        if reader.header["format"] < 4:
            stored = {"user_left": 1.0} | stored  # and all events
    names = ("mean", "fading", "user_left", "next_weight", "taste_weights")
    mean, fading, user_left, next_weight, taste_weights = map(
        _keys(reader, stored, set(names)).__getitem__, names
    )
    if not _is_number(mean) or abs(mean) > 1:
        reader.refuse(f"has a memory with mean={mean!r:.50}, which no signs have")
    for name, part in (("fading", fading), ("user_left", user_left)):
        if not _is_number(part) or not 0 <= part <= 1:
            reader.refuse(f"has a memory with {name}={part!r:.50}, which is no part of a weight")
    if not _is_float32(next_weight) or next_weight < 0:
        reader.refuse(f"has a memory with next_weight={next_weight!r:.50}")
    n_weights = len(TasteWeights._fields)
    if (
        not isinstance(taste_weights, list)
        or len(taste_weights) != n_weights
        or not all(map(_is_float32, taste_weights))
    ):
        reader.refuse(
            f"has a memory with taste_weights={taste_weights!r:.50}, expected {n_weights} numbers"
        )
    memory = ItemMemory(
        next=_item_weights(reader, "next", arrays, n_items),
        taste=_item_weights(reader, "taste", arrays, n_items),
        levels=_of_memory(reader, "levels", "<f4", arrays, n_items),
        counts=_of_memory(reader, "counts", "<f4", arrays, n_items, least=0),
        mean=float(mean),
        fading=float(fading),
        user_left=float(user_left),
    )
    return WeighedMemory(memory, float(next_weight), TasteWeights(*map(float, taste_weights)))


def _item_weights(reader: Reader, part: str, arrays: _Arrays, n_items: int) -> ItemWeights:
    """Make the weights of items on items that one part of a memory is made of."""
    offsets = _of_memory(reader, f"{part}.offsets", "<i8", arrays, n_items + 1)
    # Compared, not subtracted, which may overflow.
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
        reader.refuse(f"has a memory whose {part}.offsets do not ascend from 0")
    n_weights = int(offsets[-1])
    items = _of_memory(reader, f"{part}.items", "<i4", arrays, n_weights)
    if items.min(initial=0) < 0 or items.max(initial=-1) >= n_items:
        reader.refuse(f"has a memory whose {part}.items are none of its {n_items}")
    ascends = items[1:] > items[:-1]
    starts = offsets[(offsets > 0) & (offsets < n_weights)]
    ascends[starts - 1] = True
    if not ascends.all():
        reader.refuse(f"has a memory whose {part}.items do not ascend within a row")
    return ItemWeights(
        offsets,
        items,
        _of_memory(reader, f"{part}.weights", "<f4", arrays, n_weights),
        _of_memory(reader, f"{part}.evidence", "<f4", arrays, n_items, least=0),
    )


def _of_memory(
    reader: Reader, name: str, dtype: str, arrays: _Arrays, size: int, least: float = -np.inf
) -> NDArray[Any]:
    """Take an array of a memory, whose numbers are finite and not below the least."""
    array = arrays.take(_MEMORY + name, dtype, (size,))
    if not np.isfinite(array).all():
        reader.refuse(f"has a memory whose {name} are not finite")
    if (array < least).any():
        reader.refuse(f"has a memory whose {name} are negative")
    return array


def _check_weights(
    reader: Reader,
    method: str,
    n_items: int,
    n_heads: int,
    weights: Mapping[str, NDArray[np.float32]],
) -> None:
    """Check that weights are those of a method, each of its shape, and finite."""
    sizes = {}
    encoder = METHODS[method].encoder
    for name in ("item_embedding", f"{encoder}.position_embedding"):
        if name not in weights or weights[name].ndim != 2 or 0 in weights[name].shape:
            reader.refuse(f"lacks the weights {name!r} of method {method!r}, or their shape")
        sizes[name] = weights[name].shape
    (_, dim), (max_len, _) = sizes.values()
    if dim % n_heads:
        reader.refuse(f"has n_heads={n_heads!r:.50}, by which its {dim} dimensions do not divide")
    n_layers = METHODS[method].n_layers(weights)
    shapes = _shapes(method, n_items, dim, n_heads, max_len, n_layers, weights)
    if unknown := set(weights) - set(shapes):
        reader.refuse(f"has weights that method {method!r} does not have: {_named(unknown)}")
    if missing := set(shapes) - set(weights):
        reader.refuse(f"lacks weights of method {method!r}: {_named(missing)}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            reader.refuse(
                f"has weights {name!r} of shape {weights[name].shape}, expected {shape} of a "
                f"model of {n_items} items and {dim} dimensions"
            )
        if not np.isfinite(weights[name]).all():
            reader.refuse(f"has weights {name!r} that are not finite")


def _shapes(
    method: str,
    n_items: int,
    dim: int,
    n_heads: int,
    max_len: int,
    n_layers: int,
    present: Mapping[str, NDArray[np.float32]],
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of a method's parameters, of which :mod:`nn` has the modules.

    Which of the parts that a model may lack it does have is told by those `present`.
    """

    def linear(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}

    def encoder(name: str, *, gated: bool, biased: bool) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"{name}.position_embedding": (max_len, dim)}
        for layer in range(n_layers):
            block = f"{name}.blocks.{layer}"
            shapes |= norm(f"{block}.attention_norm")
            shapes |= linear(f"{block}.attention_in", dim, (4 if gated else 3) * dim)
            shapes |= linear(f"{block}.attention_out", dim, dim)
            shapes |= norm(f"{block}.feedforward_norm")
            shapes |= linear(f"{block}.feedforward_in", dim, (2 if gated else 1) * dim)
            shapes |= linear(f"{block}.feedforward_out", dim, dim)
            if biased:
                shapes[f"{block}.distance_bias"] = (n_heads, max_len)
                shapes[f"{block}.gap_bias"] = (n_heads, N_GAP_TAGS)
        return shapes | norm(f"{name}.norm")

    shapes: dict[str, tuple[int, ...]] = {"item_embedding": (n_items, dim)}
    if method == "pnfrec":
        shapes |= encoder("positive", gated=False, biased=False)
        if any(name.startswith("negative.") for name in present):
            shapes |= encoder("negative", gated=False, biased=False)
        return shapes
    first = "encoder.blocks.0.attention_in.bias"
    gated = first in present and len(present[first]) == 4 * dim
    shapes |= {"sign_embedding": (3, dim), "gap_embedding": (N_GAP_TAGS, dim)}
    if "latest.weight" in present:
        shapes["latest.weight"] = (2 * dim, dim)
    biased = "encoder.blocks.0.distance_bias" in present
    shapes |= encoder("encoder", gated=gated, biased=biased)
    shapes |= linear("taste_query", dim, dim) | linear("taste_level", dim, 1)
    return shapes | {"item_taste": (n_items,)}


def _check_history(reader: Reader, method: str, history: Any) -> None:
    columns = ("epoch", "loss", *_TERMS[method], "validation_score", "seconds")
    if not isinstance(history, dict) or set(history) != set(columns):
        reader.refuse(f"has a history that does not consist of {', '.join(columns)}")
    if not all(isinstance(column, list) for column in history.values()):
        reader.refuse("has a history that is no columns")
    epochs = history["epoch"]
    if {len(column) for column in history.values()} != {len(epochs)}:
        reader.refuse("has a history whose columns differ in length")
    if not all(_is_int(epoch, 1) for epoch in epochs) or epochs != list(range(1, len(epochs) + 1)):
        reader.refuse("has a history that does not count its epochs")
    for name in columns[1:]:
        for value in history[name]:
            if not (_is_number(value) or (value is None and name == "validation_score")):
                reader.refuse(f"has {name}={value!r:.50} in its history")


def _columns(reader: Reader, state: Mapping[str, Any]) -> tuple[int | None, NDArray[Any] | None]:
    """Check what was seen of columns."""
    n, names = state["n_features_in"], state["feature_names_in"]
    if n is not None and not _is_int(n, 1):
        reader.refuse(f"has n_features_in={n!r:.50}")
    if names is None:
        return n, None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        reader.refuse("has feature names that are no strings")
    if len(names) != n:
        reader.refuse(f"has {len(names)} feature names, and {n} columns")
    return n, _objects(names)


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, which JSON writes like 1e999 are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def _is_float32(value: Any) -> bool:
    """Tell whether a value is a number that is finite beside float32 arrays too."""
    return _is_number(value) and abs(value) <= _MOST_FLOAT32


def _is_threshold(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
    return value is None or _is_number(value)


def _one_of(reader: Reader, name: str, value: Any, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        reader.refuse(f"has {name}={value!r:.50}, which is none of {', '.join(allowed)}")
    return value


def _keys(reader: Reader, found: Any, expected: set[str]) -> dict[str, Any]:
    """Check that JSON is an object of just these keys."""
    if not isinstance(found, dict):
        reader.refuse("has something else in its header where keys and values were expected")
    if missing := expected - set(found):
        reader.refuse(f"has a header without {_named(missing)}")
    if unknown := set(found) - expected:
        reader.refuse(f"has a header with unknown keys: {_named(unknown)}")
    return found


def _named(names: Collection[str]) -> str:
    """Name a few of many things, each cut."""
    first: Sequence[str] = sorted(names)[:3]
    rest = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return ", ".join(f"{name!r:.60}" for name in first) + rest


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


# -- Format 1 ----------------------------------------------------------------------------------


def _from_format_1(reader: Reader, kind: type[_Estimator]) -> _Estimator:
    """Read what the first format said of a model, in part by the parameters of the estimator."""
    header = _keys(reader, reader.header, {"format", "params", "state", "items"})
    arrays = _Arrays(reader, reader.names)
    weights = arrays.weights()
    method = "joint" if "sign_embedding" in weights else "pnfrec"
    params = _params(reader, header["params"])
    params.pop("duplicates", None)
    # The first of these files are of a library that knew one method.
    params.setdefault("objective", method)
    if isinstance(params.get("positive_threshold"), list):
        params["positive_threshold"] = tuple(params["positive_threshold"])
    estimator: Any = _made(reader, kind, params, name=_RECOMMENDER, complete=False)

    if method == "joint" and "gap_embedding" not in weights:
        # The first of these models read no times: any vector added to all events alike is 0.
        dim = weights["sign_embedding"].size // 3  # never more than the file has numbers
        weights["gap_embedding"] = np.zeros((N_GAP_TAGS, dim), np.float32)
    found = header["state"]
    if not isinstance(found, dict):
        reader.refuse("has no state")
    found = {"feature_names_in_": None, "n_features_in_": None} | found
    names = ("feedback_coding", "history", "n_features_in", "feature_names_in")
    _keys(reader, found, {f"{name}_" for name in names} | {"n_iter_"})
    state = {
        "method": method,
        "n_heads": estimator.n_heads,
        "positive_threshold": estimator.positive_threshold,
        "excludes_seen": True,
        "precision": "float32",
        "memory": None,
        **{name: found[f"{name}_"] for name in names},
    }
    has_times = "gap_edges_" in reader.names
    estimator.fitted_ = _fitted(
        reader,
        state,
        _ids_of_format_1(reader, header["items"]),
        weights,
        {
            "likes": arrays.take("item_likes_", "<i8"),
            "dislikes": arrays.take("item_dislikes_", "<i8"),
            "gap_edges": arrays.take("gap_edges_", "<f8") if has_times else np.empty(0),
        },
    )
    arrays.none_left()
    return estimator


def _ids_of_format_1(reader: Reader, stored: Any) -> NDArray[Any]:
    stored = _keys(reader, stored, {"kind", "ids"})
    kind, values = stored["kind"], stored["ids"]
    if not isinstance(values, list):
        reader.refuse("has item ids that are no list")
    ids: NDArray[Any] | None = None
    try:
        if kind == "int64" and all(_is_int(value, -(2**63)) for value in values):
            ids = np.array(values, dtype=np.int64)
        elif kind == "float64" and all(map(_is_number, values)):
            ids = np.array(values, dtype=np.float64)
        elif kind == "str" and all(isinstance(value, str) for value in values):
            ids = _objects(values)
        elif kind == "uuid" and all(isinstance(value, str) for value in values):
            ids = _objects([UUID(value) for value in values])
    except (ValueError, OverflowError):
        ids = None
    if ids is None:
        reader.refuse(f"has item ids that are not of their kind, {kind!r:.50}")
    return _checked_ids(reader, ids)
