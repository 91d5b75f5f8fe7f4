"""A model file without pickle: numbered format, JSON and plain arrays in one ``.npz``.

Nothing in the file is code, so a file from elsewhere can be read without trusting it. A file of
an older format loads for ever; one of a newer format says which version of the library it needs.
"""

from __future__ import annotations

import json
from os import PathLike, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from posneg_rec.fitted import FittedModel
from posneg_rec.sequences import N_GAP_TAGS

__all__ = ["FORMAT", "read_model", "write_model"]

#: Number of the file format this version writes.
FORMAT = 2

_WEIGHT = "weights/"
_ARRAYS = ("likes", "dislikes", "gap_edges")
_PLAIN = (
    "method",
    "n_heads",
    "feedback_coding",
    "positive_threshold",
    "excludes_seen",
    "precision",
    "history",
    "n_features_in",
)


def _ids_to_json(ids: NDArray[Any]) -> dict[str, Any]:
    values = ids.tolist()  # Python numbers, strings, ...
    if ids.dtype != object:
        return {"kind": ids.dtype.name, "ids": values}
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return {"kind": "str", "ids": values}
    if kinds == {UUID}:
        return {"kind": "uuid", "ids": [str(value) for value in values]}
    names = sorted(kind.__name__ for kind in kinds)
    raise TypeError(
        f"Item ids of type {', '.join(names)} have no place in a model file, which holds int, "
        "float, str and UUID ids. Save with joblib.dump(model, path) instead."
    )


def _ids_from_json(stored: dict[str, Any]) -> NDArray[Any]:
    kind, values = stored["kind"], stored["ids"]
    if kind in ("int64", "float64"):
        return np.array(values, dtype=kind)
    ids = np.empty(len(values), dtype=object)
    ids[:] = [UUID(value) for value in values] if kind == "uuid" else values
    return ids


def write_model(path: str | PathLike[str], params: dict[str, Any], fitted: FittedModel) -> None:
    """Write an estimator's parameters and its fitted model; replaces `path` in one step.

    Parameters
    ----------
    path : path-like
    params : dict
        Constructor parameters; JSON values.
    fitted : FittedModel

    Raises
    ------
    TypeError
        If a parameter or the ids cannot be written without pickle.
    """
    arrays = {_WEIGHT + name: value for name, value in fitted.weights.items()}
    arrays |= {name: getattr(fitted, name) for name in _ARRAYS}
    plain = {name: getattr(fitted, name) for name in _PLAIN}
    names = fitted.feature_names_in
    plain["feature_names_in"] = None if names is None else names.tolist()
    try:
        header = json.dumps(
            {
                "format": FORMAT,
                "params": params,
                "state": plain,
                "items": _ids_to_json(fitted.items),
            }
        )
    except TypeError as error:
        if "JSON" not in str(error):
            raise
        raise TypeError(
            f"A parameter cannot be written without pickle: {error}. Pass plain values (an int "
            "random_state, for one), or save with joblib.dump(model, path)."
        ) from None
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:
        np.savez(file, header=np.frombuffer(header.encode(), dtype=np.uint8), **arrays)
    replace(partial, target)


def read_model(path: str | PathLike[str]) -> tuple[dict[str, Any], FittedModel]:
    """Read what :func:`write_model` wrote.

    Returns
    -------
    params : dict
    fitted : FittedModel

    Raises
    ------
    ValueError
        If the file is no model file or of a newer format.
    """
    with np.load(path, allow_pickle=False) as archive:
        if "header" not in archive:
            raise ValueError(f"{path} is no posneg_rec model file: it has no header.")
        header = json.loads(archive["header"].tobytes())
        if header["format"] > FORMAT:
            raise ValueError(
                f"{path} has model format {header['format']}; this version of posneg_rec reads "
                f"formats up to {FORMAT}. Upgrade posneg_rec to load it."
            )
        arrays = {name: archive[name] for name in archive.files if name != "header"}
    weights = {
        name.removeprefix(_WEIGHT): arrays.pop(name)
        for name in list(arrays)
        if name.startswith(_WEIGHT)
    }
    items, params, state = _ids_from_json(header["items"]), header["params"], header["state"]
    if header["format"] == 1:
        state, arrays = _from_format_1(params, state, arrays, weights)
    if state["feature_names_in"] is not None:
        state["feature_names_in"] = np.array(state["feature_names_in"], dtype=object)
    return params, FittedModel(items=items, weights=weights, **state, **arrays)


def _from_format_1(
    params: dict[str, Any],
    state: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    weights: dict[str, NDArray[np.float32]],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what the first format said of a model, in part by the parameters of the estimator."""
    params.pop("duplicates", None)
    if params["objective"] == "joint" and "gap_embedding" not in weights:
        # The first of these models read no times: any vector added to all events alike is 0.
        dim = weights["item_embedding"].shape[1]
        weights["gap_embedding"] = np.zeros((N_GAP_TAGS, dim), np.float32)
    names = ("feedback_coding", "history", "n_features_in", "feature_names_in")
    return {
        "method": params["objective"],
        "n_heads": params["n_heads"],
        "positive_threshold": params["positive_threshold"],
        "excludes_seen": True,
        "precision": "float32",
        **{name: state.get(f"{name}_") for name in names},
    }, {
        "likes": arrays["item_likes_"],
        "dislikes": arrays["item_dislikes_"],
        "gap_edges": arrays.get("gap_edges_", np.empty(0)),
    }
