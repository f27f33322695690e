from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmf.data.layouts.pickles import _Unpickler, read_pickle, text, with_text_keys


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data), "some.pickle")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_as_they_were(protocol: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(4, 3, 2, 3), dtype=np.uint8)
    data = {
        "data": pixels,
        "turned": np.asfortranarray(pixels[0, ..., 0]),
        "every second": pixels[::2],
        "labels": [1, 2, 3, 4],
        "counts": np.arange(3),
        "scalar": np.int64(7),
        "names": np.array(["n01", "n0002"]),
        "objects": np.array([pixels[0], pixels[1, :1]], dtype=object),
        "nested": {"a": ({"b": [1.5, None, True]},)},
        "ordered": OrderedDict(a=1),
        "large": 1 << 100,
    }
    got = read(pickle.dumps(data, protocol))
    assert list(got) == list(data)
    for name in ("data", "turned", "every second", "counts", "names"):
        np.testing.assert_array_equal(got[name], data[name])
        assert got[name].dtype == data[name].dtype
    assert got["labels"] == [1, 2, 3, 4] and got["scalar"] == 7 and got["large"] == 1 << 100
    assert got["nested"] == {"a": [{"b": [1.5, None, True]}]} and got["ordered"] == {"a": 1}
    for one, other in zip(got["objects"], data["objects"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pictures_come_back_as_they_were(mode: str, protocol: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(5, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    got = read(pickle.dumps([picture], protocol))[0]
    assert got.mode == mode and got.size == (9, 5)
    np.testing.assert_array_equal(np.asarray(got.convert("RGB")), np.asarray(picture.convert("RGB")))


def test_a_picture_from_a_file_is_one(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    assert read(pickle.dumps(picture)).getpixel((0, 0)) == (1, 2, 3)


def test_python_2_pickles_are_read() -> None:
    """What `cPickle.dump({"data": np.arange(3, dtype="u1"), "labels": ["n01"]}, f, 2)` wrote under Python 2."""
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85" + dtype
    old = b"\x80\x02}(U\x04data" + array + b"\x89U\x03\x00\x01\xfetbU\x06labels]U\x03n01au."
    assert pickle.loads(old, encoding="latin1")["data"].tolist() == [0, 1, 254]
    got = with_text_keys(read(old), "some.pickle")
    assert got["data"].tolist() == [0, 1, 254] and [text(label) for label in got["labels"]] == ["n01"]


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made_of = function, arguments

    def __reduce__(self) -> Any:
        return self.made_of


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    attack = pickle.dumps({"data": Calls(os.system, f"touch {victim}")}, protocol)
    with pytest.raises(ValueError, match=r"some\.pickle.*system"):
        read(attack)
    assert not victim.exists()
    pickle.loads(attack)
    assert victim.exists(), "the attack is a real one"


@pytest.mark.parametrize("function", [eval, exec, getattr, print, __import__, np.load, np.frombuffer, Image.open, open])
def test_no_function_but_the_stand_ins_is_found(function: Any) -> None:
    with pytest.raises(ValueError, match="asks for"):
        read(pickle.dumps(Calls(function, "1")))


def test_attributes_set_on_a_stand_in_do_not_outlive_the_file() -> None:
    """BUILD with the state (None, {name: value}) sets attributes of anything, here of `_codecs.encode`."""
    unpicklers = [_Unpickler(io.BytesIO(b"\x80\x02c_codecs\nencode\nN}U\x04harmK\x01s\x86b."), "ascii") for _ in "ab"]
    assert unpicklers[0].load().harm == 1, "the attack is a real one"
    assert not hasattr(unpicklers[1].find_class("_codecs", "encode"), "harm")


def test_arrays_whose_bytes_do_not_fit_are_refused() -> None:
    whole = pickle.dumps(np.zeros((2, 3), np.uint8), 4)
    for damaged in (whole.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86"), whole[:-20], b"", b"no pickle"):
        with pytest.raises(ValueError, match="some.pickle"):
            read(damaged)


def test_pictures_whose_bytes_do_not_fit_are_refused() -> None:
    whole = pickle.dumps(Image.new("RGB", (9, 9)), 4)
    with pytest.raises(ValueError, match="some.pickle"):
        read(whole.replace(b"K\tK\t\x86", b"K\x7fK\x7f\x86"))


def test_other_objects_are_refused() -> None:
    for thing in (Path("x"), {1, 2}, np.array([1 + 2j]), object()):
        with pytest.raises(ValueError, match="some.pickle"):
            read(pickle.dumps(thing))
