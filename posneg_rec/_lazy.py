"""Attributes that are made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["lazy"]

_Value = TypeVar("_Value")


class lazy(Generic[_Value]):
    """``functools.cached_property`` without the lock that it has in Python 3.11.

    That lock is one for all instances of a class, so that threads wait for each other, and a
    process that is forked while any thread holds it waits for ever. Here two threads may make the
    value at once; both make the same.
    """

    def __init__(self, func: Callable[[Any], _Value]) -> None:
        self.func = func
        self.__doc__ = func.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Learn the name to keep the value by."""
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...

    def __get__(self, instance: object | None, owner: type) -> Self | _Value:
        """Make the value and keep it: from then on it is found before this is asked."""
        if instance is None:
            return self
        value: _Value = instance.__dict__.setdefault(self.name, self.func(instance))
        return value
