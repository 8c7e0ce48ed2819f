"""Turns the values of the engine protocols into JSON values and back, by the types of their fields.

Dataclasses become lists of their fields, arrays leave the JSON for the frame's bytes. A monitor travels as the name of
its class and its fields; only the host, which trusts its parent, decodes one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from orchestrator.errors import InvalidRequest
from orchestrator.monitors import Monitor

Blobs = list[memoryview]
"""The arrays of a frame, in order."""


class Codec(NamedTuple):
    """How values of one type travel.

    Attributes:
        encode: (value, blobs) -> JSON value; appends arrays to the blobs.
        decode: (JSON value, blobs) -> value.
    """

    encode: Callable[[Any, Blobs], Any]  # Any: values of the type, JSON values
    decode: Callable[[Any, Blobs], Any]


def encode(hint: Any, value: Any, blobs: Blobs) -> Any:  # Any: a type, one of its values, a JSON value
    """``value`` of the type ``hint`` as a JSON value."""
    return codec_of(hint).encode(value, blobs)


def decode(hint: Any, data: Any, blobs: Blobs) -> Any:  # Any: as in `encode`
    """The inverse of `encode`."""
    return codec_of(hint).decode(data, blobs)


@functools.cache
def codec_of(hint: Any) -> Codec:  # Any: a type
    """The codec of a type.

    Raises:
        TypeError: Values of this type do not travel.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _AS_THEY_ARE or origin is Literal:
        return _AS_IT_IS
    if origin in {Mapping, dict}:
        return Codec(lambda value, _: dict(value), _same)
    if origin in {Union, types.UnionType}:
        return _union(arguments)
    if origin in {tuple, Sequence, list, frozenset}:
        return _several(origin, arguments)
    if origin is np.ndarray:
        return Codec(_encode_array, _decode_array)
    if hint is Monitor:
        return Codec(_encode_monitor, _decode_monitor)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Codec(lambda value, _: value.value, lambda data, _: hint(data))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(hint)
    raise TypeError(f"values of type {hint!r} cannot be sent to another process")


_AS_THEY_ARE = (Any, None, type(None), bool, int, float, str)


def _same(value: Any, _blobs: Blobs) -> Any:
    return value


_AS_IT_IS = Codec(_same, _same)


def _union(members: Sequence[Any]) -> Codec:
    rest = [member for member in members if member is not type(None)]
    if all(codec_of(member) is _AS_IT_IS for member in rest):
        return _AS_IT_IS
    if len(rest) != 1:
        raise TypeError(f"values of {members!r} cannot be told apart in another process")
    inner = codec_of(rest[0])
    return Codec(
        lambda value, blobs: None if value is None else inner.encode(value, blobs),
        lambda data, blobs: None if data is None else inner.decode(data, blobs),
    )


def _several(origin: Any, members: Sequence[Any]) -> Codec:
    make = frozenset if origin is frozenset else list if origin is list else tuple
    if origin is tuple and (len(members) != 2 or members[1] is not Ellipsis):
        each = [codec_of(member) for member in members]
        return Codec(
            lambda value, blobs: [codec.encode(item, blobs) for codec, item in zip(each, value, strict=True)],
            lambda data, blobs: tuple(codec.decode(item, blobs) for codec, item in zip(each, data, strict=True)),
        )
    inner = codec_of(members[0])
    if inner is _AS_IT_IS:
        return Codec(lambda value, _: list(value), lambda data, _: make(data))
    encode_one, decode_one = inner
    return Codec(
        lambda value, blobs: [encode_one(item, blobs) for item in value],
        lambda data, blobs: make([decode_one(item, blobs) for item in data]),
    )


def _dataclass(kind: type) -> Codec:
    hints = get_type_hints(kind, localns={"np": np, "npt": npt})
    fields = [(field.name, codec_of(hints[field.name])) for field in dataclasses.fields(kind)]

    def encode_fields(value: Any, blobs: Blobs) -> list[Any]:
        return [codec.encode(getattr(value, name), blobs) for name, codec in fields]

    def decode_fields(data: Any, blobs: Blobs) -> Any:
        given = zip(fields, data, strict=True)
        return kind(**{name: codec.decode(item, blobs) for (name, codec), item in given})

    return Codec(encode_fields, decode_fields)


# Arrays: float32, in the byte order of this machine, which both processes share.


def _encode_array(value: npt.NDArray[np.float32], blobs: Blobs) -> list[int]:
    blobs.append(memoryview(value.astype(np.float32, copy=False).tobytes()))
    return [len(blobs) - 1, *value.shape]


def _decode_array(data: list[int], blobs: Blobs) -> npt.NDArray[np.float32]:
    place, *shape = data
    return np.frombuffer(bytes(blobs[place]), np.float32).reshape(shape)


# Monitors


def _encode_monitor(monitor: Monitor, blobs: Blobs) -> list[Any]:
    kind: type = type(monitor)
    reason = _why_it_stays(kind)
    if not reason:
        try:
            return [kind.__module__, kind.__qualname__, encode(kind, monitor, blobs)]
        except TypeError as error:
            reason = str(error)
    raise InvalidRequest(
        f"the monitor {monitor!r:.100} cannot be sent to the process of a hosted engine: {reason}; write it as a "
        "dataclass of plain values at the top of a module",
        field="monitors",
    )


def _why_it_stays(kind: type) -> str:
    """Why objects of a class cannot be made again in another process; empty if they can."""
    if kind.__module__ == "__main__" or _found(sys.modules.get(kind.__module__), kind.__qualname__) is not kind:
        return "its class cannot be imported by name"
    return "" if dataclasses.is_dataclass(kind) else "its class is no dataclass"


def _decode_monitor(data: list[Any], blobs: Blobs) -> Monitor:
    module, qualname, fields = data
    try:
        kind = _found(importlib.import_module(module), qualname)
    except ImportError as error:
        raise InvalidRequest(
            f"the host of the engine cannot import the monitor {module}:{qualname}: {error}", field="monitors"
        ) from error
    monitor: Monitor = decode(kind, fields, blobs)
    return monitor


def _found(module: object, qualname: str) -> Any:  # Any: a class
    found = module
    for part in qualname.split("."):  # "<locals>" is never an attribute
        found = getattr(found, part, None)
    return found
