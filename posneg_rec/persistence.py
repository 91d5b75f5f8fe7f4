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

__all__ = ["FORMAT", "read_model", "write_model"]

#: Number of the file format this version writes.
FORMAT = 1

_WEIGHT = "weights/"


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


def write_model(path: str | PathLike[str], params: dict[str, Any], state: dict[str, Any]) -> None:
    """Write an estimator's parameters and fitted attributes; replaces `path` in one step.

    Parameters
    ----------
    path : path-like
    params : dict
        Constructor parameters; JSON values.
    state : dict
        Fitted attributes: ``items_`` (ids), ``weights_`` (dict of arrays), further arrays and
        JSON values.

    Raises
    ------
    TypeError
        If a parameter or the ids cannot be written without pickle.
    """
    arrays = {_WEIGHT + name: value for name, value in state["weights_"].items()}
    plain = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            arrays[name] = value
        elif name not in ("weights_", "items_"):
            plain[name] = value.tolist() if isinstance(value, np.ndarray) else value
    arrays.pop("items_", None)
    try:
        header = json.dumps(
            {
                "format": FORMAT,
                "params": params,
                "state": plain,
                "items": _ids_to_json(state["items_"]),
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


def read_model(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what :func:`write_model` wrote.

    Returns
    -------
    params, state : dict

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
    state = header["state"] | arrays
    return header["params"], state | {
        "weights_": weights,
        "items_": _ids_from_json(header["items"]),
    }
