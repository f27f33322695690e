"""Reads plain data from untrusted pickles without running their code.

A pickle is a program for a small virtual machine, and what it can do depends on the names that it can look up. Here it
can look up only the few that NumPy and PIL need to describe an array or a picture. Each is a stand-in that only stores
its arguments, so NumPy and PIL see nothing but checked sizes and bytes.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image

ADMITTED = "arrays, lists, dicts, strings, numbers and PIL images"
PICTURE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_pickle(file: IO[bytes], where: str) -> Any:
    """Read the data in `file`, which errors call `where`.

    Strings in pickles of Python 2 come as bytes, which `text` and `with_text_keys` undo. Raises ValueError, without
    having run anything, if the file is damaged or holds anything but plain data (`ADMITTED`).
    """
    try:
        return _plain(_Unpickler(file, encoding="bytes").load(), {})
    except Exception as error:  # hostile or damaged bytes can fail anywhere in the unpickler
        raise ValueError(f"{where}: not a pickle of {ADMITTED} only: {error}") from error


def text(value: Any) -> Any:
    """`value`, decoded if it is bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def with_text_keys(value: Any, where: str) -> dict[str, Any]:
    """The dict `value` with its keys decoded to text."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: holds a {type(value).__name__}, expected a dict")
    return {text(key): item for key, item in value.items()}


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds the stand-ins and nothing else.

    Every file has its own stand-ins, because a pickle can set attributes on them.
    """

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        module = {"copy_reg": "copyreg", "__builtin__": "builtins"}.get(module, module)  # names of Python 2
        full_name = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if re.fullmatch(r"PIL\.\w+ImagePlugin\.\w+ImageFile", full_name):
            full_name = "PIL.Image.Image"
        if full_name not in self._known:
            raise ValueError(f"it asks for {module}.{name}")
        return self._known[full_name]


def _stand_ins() -> dict[str, Callable[..., Any]]:
    class Base:
        """Stands for `object`, which old pickles refer to."""

    class Factory:
        """Stands for what a `defaultdict` makes for a missing key; nothing is ever made."""

    def emptied(*_: Any) -> dict[Any, Any]:
        return {}

    class DType:
        def __init__(self, code: str | bytes, *_: Any) -> None:
            self.code, self.order = text(code), ""

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = text(state[1])

        def plain(self) -> np.dtype:
            if not re.fullmatch(r"[biufSU]\d+", self.code) or self.order not in ("", "|", "<", ">", "="):
                raise ValueError(f"an array of dtype {self.code!r}, expected numbers or strings")
            dtype: np.dtype = np.dtype(self.order.replace("|", "") + self.code)
            return dtype

    class Array(_Held):
        def __init__(self, *_: Any) -> None:
            self.value = None

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            _, shape, dtype, columns_first, data = state
            if dtype.code in ("O", "O8"):
                self.value = list(data)
            else:
                self.value = _array(data, dtype.plain(), shape, "F" if columns_first else "C")

    class Picture(_Held):
        def __setstate__(self, state: list[Any]) -> None:
            info, mode, size, palette, data = state[:5]
            self.value = _picture(text(mode), tuple(size), palette, _bytes(data))
            transparent = with_text_keys(info, "a picture").get("transparency") if info else None
            if _is_transparency(transparent):
                self.value.info["transparency"] = transparent

    def from_buffer(data: Any, dtype: DType, shape: Any, order: str) -> np.ndarray:
        return _array(data, dtype.plain(), shape, order)

    def scalar(dtype: DType, data: Any) -> Any:
        return _array(data, dtype.plain(), (1,), "C")[0]

    def encode(characters: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"bytes in the encoding {encoding!r}, expected 'latin1'")
        return characters.encode("latin1")

    def reconstruct(*_: Any) -> Array:
        return Array()

    def instance(kind: type, *_: Any) -> Picture:
        if kind is not Picture:
            raise ValueError("an object that is not a PIL image")
        return Picture()

    return {
        "numpy.ndarray": Array,
        "numpy.dtype": DType,
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy.core.multiarray.scalar": scalar,
        "numpy.core.numeric._frombuffer": from_buffer,
        "_codecs.encode": encode,
        "PIL.Image.Image": Picture,
        "copyreg._reconstructor": instance,
        "builtins.object": Base,
        "collections.OrderedDict": dict,
        "collections.defaultdict": emptied,
        **dict.fromkeys(("builtins.list", "builtins.dict", "builtins.int", "builtins.set"), Factory),
    }


class _Held:
    """A stand-in that holds the finished `value`."""

    value: Any


def _array(data: Any, dtype: np.dtype, shape: Any, order: str) -> np.ndarray:
    """An array over `data`, whose length has to match `shape`."""
    sides = tuple(int(side) for side in shape)
    return np.frombuffer(_bytes(data), dtype).reshape(sides, order="F" if order == "F" else "C")


def _bytes(data: Any) -> bytes | bytearray:
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"a {type(data).__name__} where bytes were expected")
    return data


def _picture(mode: str, size: tuple[int, int], palette: Any, data: bytes | bytearray) -> Image.Image:
    """A picture from PIL's pickled state; the length of `data` has to match mode and size."""
    width, height = (int(side) for side in size)
    if mode not in PICTURE_MODES or width < 1 or height < 1 or width * height > 8 * len(data):
        raise ValueError(f"a picture of mode {mode!r}, {width}x{height}, in {len(data)} bytes")
    picture = Image.frombytes(mode, (width, height), data)
    if mode in ("P", "PA") and palette:
        picture.putpalette(palette)
    return picture


def _is_transparency(value: Any) -> bool:
    """Whether it is what PIL keeps of a transparent colour: its index or value, or the alpha of each palette entry."""
    return isinstance(value, (int, bytes)) or (
        isinstance(value, tuple) and all(isinstance(each, int) for each in value)
    )


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """`value` with every stand-in replaced by what it holds.

    An object that occurs several times is converted once (`known`, by id), so lists that repeat the same list many
    times over stay small.
    """
    if isinstance(value, _Held):
        return _plain(value.value, known) if isinstance(value.value, list) else value.value
    if isinstance(value, (dict, list, tuple)):
        if id(value) not in known:
            if isinstance(value, dict):
                known[id(value)] = {key: _plain(item, known) for key, item in value.items()}
            else:
                known[id(value)] = [_plain(item, known) for item in value]
        return known[id(value)]
    if value is None or isinstance(value, (bool, int, float, str, bytes, bytearray, np.ndarray, np.generic)):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
