"""Malformed input: every command answers in a sentence that says what is wrong and what was expected.

Each case is a real file, folder or command line, given to the command that a user would type. The message has to
contain all words in the case, which are the cause and a hint of what was expected.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dmf import evaluate, released, train
from dmf.config import DataConfig, DMFConfig, ExperimentConfig
from dmf.methods import build_method
from dmf.records.checkpoints import STATE, read_checkpoint, write_checkpoint
from dmf.records.records import BEST, CONFIG, LAST, RECORD
from orchestrator import report, sweep
from orchestrator.spec.file import parse_yaml, read_spec
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import results_path
from tests import test_data as layouts
from tests.test_report import demo, records_of

ROOT = Path(__file__).resolve().parents[1]
Command = Callable[[list[str]], int]
Damage = Callable[[Path], object]
Write = Callable[[Path, layouts.Images], None]


pytestmark = pytest.mark.usefixtures("place")


def answer(command: Command, arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The error message of a command that has to fail."""
    try:
        status = command([str(argument) for argument in arguments])
    except SystemExit as stop:  # raised by argparse
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2, said
    assert "Traceback" not in said
    return said


def check(said: str, words: tuple[str, ...], lines: int = 1) -> None:
    assert said.count("\n") <= lines, said
    for word in words:
        assert word in said, f"{word!r} is not in\n{said}"


def named(name: str, *values: Any) -> Any:
    return pytest.param(*values, id=name.replace(" ", "-"))


def spec(name: str, content: bytes, *words: str) -> Any:
    return named(name, content, words)


def line(name: str, command: Command, arguments: str, *words: str) -> Any:
    return named(name, command, arguments, words)


def data(name: str, write: Write, damage: Damage, *words: str) -> Any:
    return named(name, write, damage, words)


# Sweep files ---------------------------------------------------------------------------------------------------------

START = "name: s\nparts: [{table: 2c}]\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n  x{i}: 1\n" for i in range(1, 10)
)
TEXT_BOMB = f"a: &a {'x' * 2000}\nb: [{', '.join(['*a'] * 2000)}]\n"
NO_MAPPING = "expected a mapping with name and parts or search"
TAG = "a value does not match its tag or form"
GRIDS = "{" + ", ".join(f"{path}: [{', '.join(map(str, range(1, 12)))}]" for path in (
    "episodes.shot", "episodes.queries", "training.epochs", "training.validate_every")) + "}"  # fmt: skip

SPECS = [
    spec("empty", b"", "got NoneType", NO_MAPPING),
    spec("a list", b"- a\n- b\n", "got list", NO_MAPPING),
    spec("one word", b"table2", "got str", NO_MAPPING),
    spec("an image", b"\x89PNG\r\n\x1a\n\x00", "is not UTF-8 text", "at byte 0"),
    spec("UTF-16", START.encode("utf-16"), "is not UTF-8 text", "at byte 0"),
    spec("latin-1", "name: s\nabout: Übung\n".encode("latin-1"), "is not UTF-8 text", "at byte 15"),
    spec("a NUL", b"name: s\x00", "is not valid YAML", "special characters are not allowed"),
    spec("a tab", b"name: s\nset:\n\tdata.root: /x\n", "not valid YAML", "'\\t' that cannot start any token", "line 3"),
    spec("cut off", b"name: s\nparts: [{table: 2c", "is not valid YAML", "expected ',' or '}'"),
    spec("two documents", START.encode() + b"---\n" + START.encode(), "expected a single document"),
    spec("an alias of nothing", b"name: *n\n", "found undefined alias", "line 1"),
    spec("a bomb of lists", BOMB.encode(), "has over 1,000,000 characters", "anchors"),
    spec("a bomb of merged mappings", MERGE_BOMB.encode(), "has over 1,000,000 characters"),
    spec("a bomb of text", TEXT_BOMB.encode(), "has over 1,000,000 characters"),
    spec("a month 13", b"name: !!timestamp 2026-13-45\n", TAG, "month must be in 1..12"),
    spec("a bool that is none", b"name: !!bool maybe\n", TAG, "maybe"),
    spec("an int that is empty", b'name: !!int ""\n', TAG),
    spec("a date that is none", b"name: !!timestamp soon\n", TAG),
    spec("a float that is none", b"name: !!float x\n", TAG, "could not convert"),
    spec("a number of 5000 digits", f"name: s\nseeds: [{'9' * 5000}]".encode(), TAG, "4300 digits"),
    spec("a hexadecimal number of 5000 digits", f"name: s\nseeds: [0x{'f' * 5000}]".encode(), "is not plain data"),
    spec("no name", b"parts: [{table: 2c}]", "name: is missing"),
    spec("a number as name", b"name: 2\nparts: [{table: 2c}]", "name: Input should be a valid string, got 2"),
    spec("a name with a slash", b"name: a/b\nparts: [{table: 2c}]", "name: got 'a/b', expected", "such as 'a_b'"),
    spec("a long name", f"name: {'a' * 101}\nparts: [{{table: 2c}}]".encode(), "name: got 'aaa", "at most 100 lower"),
    spec("a name in unicode", "name: Überblick\nparts: [{table: 2c}]".encode(), "got 'Überblick'", "lower-case"),
    spec("an about that rings", b'about: "\\a"\n' + START.encode(), "about: has the character '\\x07'", "plain text"),
    spec("an about that is no text", b"about: 3\n" + START.encode(), "about: Input should be a valid string, got 3"),
    spec("keys that are numbers", b"1: x\n" + START.encode(), "1: no such name", "there are name, about"),
    spec("no parts", b"name: s", "give either parts (tables to fill) or search"),
    spec("parts without a list", b"name: s\nparts: {table: 2c}", "parts: Input should be a valid array", "(a list:"),
    spec("a part without a table", b"name: s\nparts: [{}]", "parts.0.table: is missing"),
    spec("a table that is none", b"name: s\nparts: [{table: 2e}]", "parts.0.table: '2e' is not a table", "1, 2a, 2b"),
    spec("an empty grid", b"name: s\nparts: [{table: 2c, grid: {model.groups: []}}]", "at least 1 item", "got []"),
    spec(
        "a grid of 14,641", f"name: s\nparts: [{{table: 2c, grid: {GRIDS}}}]".encode(),
        "make 14,641 combinations", "the limit is 10,000",
    ),
    spec("no seeds", b"seeds: []\n" + START.encode(), "seeds: Tuple should have at least 1 item"),
    spec("a seed below 0", b"seeds: [-1]\n" + START.encode(), "seeds.0: Input should be greater than or equal to 0"),
    spec("a seed beyond 32 bits", b"seeds: [4294967296]\n" + START.encode(), "seeds.0", "less than 4294967296"),
    spec("a seed with a fraction", b"seeds: [0.5]\n" + START.encode(), "seeds.0: Input should be a valid int"),
    spec("a seed twice", b"seeds: [1, 1]\n" + START.encode(), "seeds=[1, 1] has a seed twice"),
    spec("a seed in quotes", b"seeds: ['0']\n" + START.encode(), "seeds.0: Input should be a valid integer, got '0'"),
    spec("a set that is a list", b"set: [data.root]\n" + START.encode(), "set: Input should be", "got ['data.root']"),
    spec("an empty root", b"set: {data.root: ''}\n" + START.encode(), "set.data.root: String should have at least 1"),
    spec("images of a billion pixels", b"set: {data.image_size: 1000000}\n" + START.encode(), "equal to 2048"),
    spec("images of four channels", b"set: {data.channels: 4}\n" + START.encode(), "Input should be 1 or 3, got 4"),
    spec(
        "a border wider than the image", b"set: {augmentation.crop_padding: 100}\n" + START.encode(),
        "crop_padding=100 is more than data.image_size=84", "use about a tenth",
    ),
    spec("a rate that is infinite", b"set: {training.learning_rate: .inf}\n" + START.encode(), "a finite number"),
    spec("a rate below 0", b"set: {training.learning_rate: -0.1}\n" + START.encode(), "greater than 0, got -0.1"),
    spec("a trillion epochs", b"set: {training.epochs: 1000000000000}\n" + START.encode(), "equal to 1000000000"),
    spec("a trillion episodes", b"evaluation: {episodes: 1000000000000}\n" + START.encode(), "evaluation.episodes"),
    spec("one way", b"evaluation: {way: 1}\n" + START.encode(), "evaluation.way", "greater than or equal to 2"),
    spec("less than no CPU", b"resources: {cpu: -1}\n" + START.encode(), "resources.cpu", "greater than 0, got -1"),
    spec("a CPU that is no number", b"resources: {cpu: .nan}\n" + START.encode(), "resources.cpu", "finite number"),
    spec("a billion failures", b"max_failures: 1000000000\n" + START.encode(), "max_failures", "equal to 1000"),
    spec("a search of nothing", b"name: s\nsearch: {trials: 3, parameters: {}}", "parameters is empty; write such as"),
    spec("a search of no trials", b"name: s\nsearch: {trials: 0, parameters: {model.groups: {choice: [1]}}}", "trials"),
    spec(
        "a range beyond counting", b"name: s\nsearch: {trials: 1, parameters: {episodes.queries: {int: [1, 1" 
        + b"0" * 30 + b"]}}}", "search.parameters.episodes.queries", "9007199254740992",
    ),
    spec(
        "a choice of nothing", b"name: s\nsearch: {trials: 1, parameters: {model.groups: {choice: []}}}",
        "choice needs at least one value",
    ),
    spec("a value of a million characters", f"about: 3\nname: {'X' * 500_000}\n".encode(), "got 'XXXX", "...XXXX"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), SPECS)
def test_sweep_files(content: bytes, words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "bad.yaml"
    path.write_bytes(content)
    said = answer(sweep.main, [path, "--plan", "--store", place / "runs"], capsys)
    check(said, (str(path), *words), lines=10)  # a YAML mistake shows its place; several mistakes take one line each
    assert len(said) < 3000, "a message is not as long as its cause"
    assert not (place / "runs").exists()


def test_sweep_files_that_are_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "folder.yaml").mkdir()
    (place / "loop.yaml").symlink_to("loop.yaml")
    for name, told in (
        ("nowhere.yaml", "nowhere.yaml cannot be read: No such file"),
        ("folder.yaml", "folder.yaml cannot be read: Is a directory"),
        ("loop.yaml", "loop.yaml cannot be read: Too many levels of symbolic links"),
        ("n\u00f6wh\u00ebre/\u65e5\u672c.yaml", "n\u00f6wh\u00ebre/\u65e5\u672c.yaml cannot be read"),
    ):
        check(answer(sweep.main, [place / name, "--plan"], capsys), (told,))


def test_a_sweep_file_of_windows_is_read(place: Path) -> None:
    (place / "s.yaml").write_bytes(b"\xef\xbb\xbf" + START.replace("\n", "\r\n").encode())
    assert read_spec(place / "s.yaml").name == "s"


def test_anchors_of_a_usual_size_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    assert parse_yaml(text, "s") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}


# Command lines -------------------------------------------------------------------------------------------------------

DIGITS = "9" * 5000
COMMANDS = [
    line("groups that are no number", train.main, "--groups few", "argument --groups: invalid int value: 'few'"),
    line("an option that is none", train.main, "--learning-rate 3", "unrecognized arguments: --learning-rate"),
    line("no shots", train.main, "--nExemplars 0", "episodes.shot", "greater than or equal to 1, got 0"),
    line("a seed below 0", train.main, "--seed -1", "training.seed", "greater than or equal to 0, got -1"),
    line("a seed beyond 32 bits", train.main, "--seed 4294967296", "training.seed", "less than 4294967296"),
    line("a recipe that is none", train.main, "--base papr", "base='papr' is not a recipe; did you mean paper?"),
    line("a section as value", train.main, "model=3", "model: Input should be an object, got 3"),
    line("a path too deep", train.main, "model.groups.x=3", "'model.groups' is not a section; the sections are data"),
    line("a path of nothing", train.main, "=3", "'' is not a parameter; the parameters there are data, augmentation"),
    line("a rate that is no number", train.main, "training.learning_rate=NaN", "training.learning_rate", "got nan"),
    line("a rate in words", train.main, "training.learning_rate=high", "valid number, got 'high'"),
    line("a number of 5000 digits", train.main, f"training.epochs={DIGITS}", "valid integer", "...9999"),
    line("brackets without end", train.main, "training.epochs=" + "[" * 100_000, "valid integer", "...[[[["),
    line("images of a billion pixels", train.main, "data.image_size=1000000", "data.image_size", "equal to 2048"),
    line("a name in capitals", train.main, "--dataset MiniImageNet", "data.name: got 'MiniI", "such as 'mini"),
    line("a home that is none", train.main, "--dataset mine --root ~nobody-has-it/x", "is no user's home"),
    line("a root in unicode", train.main, "--dataset mine --root /дані/图像", "/дані/图像", "does not exist; expected"),
    line("a device as root", train.main, "--dataset mine --root /dev/null", "/dev/null", "expected a folder or a zip"),
    line("a root for glyphs", train.main, "--dataset glyphs --root /x", "glyphs are embedded; leave out data.root"),
    line("episodes of one class", evaluate.main, "folder --way 1", "way: Input should be greater than or equal to 2"),
    line("no queries", evaluate.main, "folder --queries 0", "queries: Input should be greater than or equal to 1"),
    line("one episode", evaluate.main, "folder --episodes 1", "episodes: Input should be greater than or equal to 2"),
    line("a split that is none", evaluate.main, "folder --split base", "invalid choice: 'base'", "val", "test"),
    line("two folders", evaluate.main, "one two", "give either one training's folder or --resume"),
    line("a folder as checkpoint", evaluate.main, "--resume .", "there is no checkpoint at ."),
    line("no sweep file", sweep.main, "", "the following arguments are required: spec"),
    line("a format that is none", report.main, "--formats pdf", "invalid choice: 'pdf'", "latex"),
    line("a store that is a file", report.main, f"--store {Path(__file__)}", "is damaged or no archive of sweeps"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments", "words"), COMMANDS)
def test_command_lines(
    command: Command, arguments: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    check(answer(command, arguments.split(), capsys), words, lines=25)  # argparse prints its usage before the error
    assert list(Path.cwd().iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        named("a list cut off", "seeds=[0", ("seeds=[0 is not valid YAML",)),
        named("a list of nothing", "seeds=[]", ("seeds: Tuple should have at least 1 item",)),
        named("a bool that is none", "augmentation.flip=!!bool maybe", (TAG,)),
        named("a part itself", "parts.0=3", ("'parts.0': write parts.N.data.root",)),
        named("all parts", "parts=3", ("parts: Input should be a valid array, got 3",)),
        named("a key of nothing", "=3", ("no such name", "there are name, about")),
        named("no value", "name=", ("name: got '', expected", "lower-case")),
        named("a name that climbs", "name=../../x", ("name: got '../../x', expected", "such as 'x'")),
        named("a megabyte", "x" * 1_000_000, ("is not a setting; write key=value", "...xxxx")),
    ],
)
def test_settings_over_a_sweep_file(
    setting: str, words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "s.yaml").write_text(START)
    check(answer(sweep.main, ["s.yaml", setting, "--plan", "--store", "runs"], capsys), words, lines=10)


def test_a_root_of_no_words_is_not_the_current_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--root "$DATA"` gives it if DATA is not set."""
    layouts.write_folders(place, pictures())
    said = answer(train.main, ["--dataset", "mine", "--root", ""], capsys)
    check(said, ("data.root: String should have at least 1 character, got ''",))


def test_a_root_whose_bytes_are_no_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(train.main, ["--dataset", "mine", "--root", os.fsdecode(b"/data/\xff")], capsys)
    check(said, ("\\udcff", "is not UTF-8 text; rename"))


def test_commands_of_a_shell(place: Path) -> None:
    """In separate processes, without pytest's logging."""
    (place / "images").mkdir()
    (place / "s.yaml").write_text(BOMB)
    for line, told in (
        ("dmf.train --dataset mine --root images", "found none of the known layouts"),
        ("dmf.evaluate --resume s.yaml", "s.yaml is not a checkpoint of tensors and numbers only"),
        ("orchestrator.sweep s.yaml --plan", "has over 1,000,000 characters"),
        ("orchestrator.report --output /dev/null/x", "found no sweep"),
    ):
        command = [sys.executable, "-m", *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr + done.stdout, done


# Data sets -----------------------------------------------------------------------------------------------------------


def pictures() -> layouts.Images:
    """Images by split and class, as in the tests of layouts."""
    random = np.random.default_rng(0)
    shape = (layouts.PER_CLASS, layouts.SIDE, layouts.SIDE, 3)
    return {
        split: {name: random.integers(256, size=shape, dtype=np.uint8) for name in classes}
        for split, classes in layouts.CLASSES.items()
    }


in_folders, in_csv, in_zip = layouts.write_folders, layouts.write_csv, layouts.write_csv_and_zip
in_pickles, in_cifar = layouts.write_category_pickles, layouts.write_cifar_pickles
in_cached, in_npz = layouts.write_cache_pickles, layouts.write_npz
in_png, in_pil = layouts.write_png_pickles, layouts.write_picture_pickles
in_lists, in_json = layouts.write_class_lists, layouts.write_json


def put(name: str, content: bytes | str) -> Damage:
    """Overwrite a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes(data)


def add(name: str, content: bytes | str) -> Damage:
    """Append to a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes((root / name).read_bytes() + data)


def cut(name: str, share: float = 0.5) -> Damage:
    """Truncate a file to its first part."""
    return lambda root: os.truncate(root / name, int(share * (root / name).stat().st_size))


def dump(name: str, change: Callable[[Any], Any]) -> Damage:
    """Change the content of a pickle."""

    def damage(root: Path) -> None:
        (root / name).write_bytes(pickle.dumps(change(pickle.loads((root / name).read_bytes()))))

    return damage


def entry(name: str, **values: Any) -> Damage:
    """Change entries of a pickled dict."""
    return dump(name, lambda data: data | values)


def entries(name: str, change: Callable[[Any], Any]) -> Damage:
    """Change the content of a JSON file. A record loses its checksum, as if an earlier version had written it."""

    def damage(root: Path) -> None:
        data = json.loads((root / name).read_text())
        if isinstance(data, dict):
            data.pop("sha256", None)
        (root / name).write_text(json.dumps(change(data)))

    return damage


def picture(name: str, image: Image.Image, kind: str = "png", share: float = 1.0) -> Damage:
    """Write an image file, or only its first part."""
    data = io.BytesIO()
    image.save(data, kind)
    return put(name, data.getvalue()[: int(share * len(data.getvalue()))])


def link(name: str, target: str) -> Damage:
    return lambda root: (root / name).symlink_to(target)


def folder(name: str | bytes) -> Damage:
    """A class folder with the given name and another class's images."""
    return lambda root: os.rename(root / "val" / "n04", os.path.join(os.fsencode(root), b"val", os.fsencode(name)))


def flagged(name: str) -> Damage:
    """Mark every entry of a zip archive as encrypted."""

    def damage(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.find(signature)
            while at >= 0:
                data[at + offset] |= 1
                at = data.find(signature, at + 1)
        (root / name).write_bytes(data)

    return damage


def packed(name: str, method: int) -> Damage:
    """Mark every entry of a zip archive as packed in another way."""

    def damage(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            at = data.find(signature)
            while at >= 0:
                data[at + offset] = method
                at = data.find(signature, at + 1)
        (root / name).write_bytes(data)

    return damage


def rotten(name: str, inner: str) -> Damage:
    """Change a byte within an entry of a zip archive."""

    def damage(root: Path) -> None:
        with zipfile.ZipFile(root / name) as archive:
            info = archive.getinfo(inner)
        data = bytearray((root / name).read_bytes())
        names = struct.unpack_from("<HH", data, info.header_offset + 26)
        data[info.header_offset + 30 + sum(names) + info.compress_size // 2] ^= 0xFF
        (root / name).write_bytes(data)

    return damage


def zipped(name: str, inner: str, content: bytes) -> Damage:
    """Replace an entry of a zip archive, and keep the other entries."""

    def damage(root: Path) -> None:
        with zipfile.ZipFile(root / name) as old:
            kept = {info.filename: old.read(info) for info in old.infolist() if info.filename != inner}
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
            for filename, data in {**kept, inner: content}.items():
                new.writestr(filename, data)

    return damage


def npz(**arrays: np.ndarray) -> Damage:
    return lambda root: np.savez(root / "val_images.npz", **arrays)


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    """An npy file whose header and bytes can disagree."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def looped(data: dict[str, Any]) -> dict[str, Any]:
    labels: list[Any] = []
    labels.append(labels)
    return data | {"labels": labels}


def doubled(data: dict[str, Any]) -> dict[str, Any]:
    """Lists of lists of the same list, 10^12 numbers in all."""
    labels: list[Any] = [0] * 10
    for _ in range(11):
        labels = [labels] * 10
    return data | {"labels": labels}


def saved(name: str, image: Image.Image, **options: Any) -> Damage:
    """Write an image file in the format of its suffix."""

    def damage(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name, **options)

    return damage


def noise(seed: int, mode: str = "RGB", side: int = 12) -> Image.Image:
    pixels = np.random.default_rng(100 + seed).integers(256, size=(side, side, 4), dtype=np.uint8)
    return Image.fromarray(pixels[..., :3]).convert(mode) if mode != "RGBA" else Image.fromarray(pixels)


def several(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


def moved(name: str, to: str) -> Damage:
    def damage(root: Path) -> None:
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / to)

    return damage


def copied(name: str, to: str) -> Damage:
    def damage(root: Path) -> None:
        (root / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, root / to)

    return damage


def oriented(name: str, orientation: int, kind: str) -> Damage:
    """An image file with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    return lambda root: noise(7).save(root / name, kind, exif=exif)


def lengthened(write: Write) -> Write:
    """Ten times as many images in every class, so that a few copies are few."""

    def written(root: Path, images: layouts.Images) -> None:
        random = np.random.default_rng(5)
        shape = (9 * layouts.PER_CLASS, layouts.SIDE, layouts.SIDE, 3)
        more = {
            split: {name: np.concatenate([old, random.integers(256, size=shape, dtype=np.uint8)])
                    for name, old in classes.items()} for split, classes in images.items()}  # fmt: skip
        write(root, more)

    return written


def transparent(mode: str = "RGBA") -> Image.Image:
    """A black stroke on a transparent ground."""
    image = Image.new("LA", (12, 12), (0, 0))
    image.paste((0, 255), (5, 1, 7, 11))
    return image.convert(mode)


def palette(entries: int | bytes) -> Damage:
    """A palette image whose entry or entries are transparent, in a PNG file."""
    image = noise(3).quantize(8)
    return saved("val/n04/p.png", image, transparency=entries)


def families(root: Path) -> None:
    for species in ("lion", "lynx"):
        saved(f"train/n01/{species}/0.png", noise(ord(species[1])))(root)


def renamed(name: str) -> Damage:
    """A class folder of the test split under another name."""
    return moved("test/n06", f"test/{name}")


def zipped_root(rename: Callable[[str], str], *beside: str) -> Write:
    """Class folders in one zip archive, whose entries are renamed, with empty files beside them."""

    def write(root: Path, images: layouts.Images) -> None:
        in_folders(root / "files", images)
        with zipfile.ZipFile(root / "archive.zip", "w") as archive:
            for path in sorted((root / "files").rglob("[!.]*.*")):
                archive.write(path, rename(path.relative_to(root / "files").as_posix()))
            for name in beside:
                archive.writestr(name, b"")
            if "\\" in rename("/"):  # zipfile itself writes every separator as a slash
                for info in archive.infolist():
                    info.filename = info.filename.replace("/", "\\")
        shutil.rmtree(root / "files")

    return write


def defaulted(data: dict[str, Any]) -> dict[str, Any]:
    classes: dict[str, list[int]] = defaultdict(list)
    for name, indices in data["class_dict"].items():
        classes[name] += indices
    return data | {"class_dict": classes}


def blue_first(root: Path) -> None:
    for split in layouts.CLASSES:
        images = np.load(root / f"{split}_images.npz")["images"]
        images[..., 2] //= 2
        np.savez(root / f"{split}_images.npz", images=images[..., ::-1])


def dimmed(write: Write, channel: int) -> Write:
    """A writer of images in which one channel is half as bright: the first, as in OpenCV's arrays, or the last."""

    def dim(array: np.ndarray) -> np.ndarray:
        factor = np.ones(3, np.uint8)
        factor[channel] = 2
        return array // factor

    def dimly(root: Path, images: layouts.Images) -> None:
        write(root, {split: {name: dim(array) for name, array in each.items()} for split, each in images.items()})

    return dimly


def in_json_deeper(root: Path, images: layouts.Images) -> None:
    """CloserLook's lists for images in `pictures/`, and other images of the same last two parts in `thumbs/`."""
    in_json(root, images)
    for path in list((root / "pictures").glob("*/*.jpg")):
        thumb = root / "thumbs" / path.relative_to(root / "pictures")
        thumb.parent.mkdir(parents=True, exist_ok=True)
        thumb.write_bytes(layouts.png(np.zeros((2, 2, 3), np.uint8)))
    for name in ("base", "val", "novel"):
        text = (root / f"{name}.json").read_text()
        (root / f"{name}.json").write_text(text.replace("/else/", "/else/pictures/"))


SPLIT, CIFAR, CACHED = "miniImageNet_category_split_val.pickle", "CIFAR_FS_val.pickle", "mini-imagenet-cache-val.pkl"
N = 2 * layouts.PER_CLASS
PIXELS = np.zeros((N, 12, 12, 3), np.uint8)
LABEL = "neither text nor a whole number from 0 up"
LISTED = "expected a list or an array"
NPZ = "npz"
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n"
METAFILE = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hHLH", 0, 0, 12, 12, 72, 0, 0) + b"\1\0\t\0" + bytes(30)
JPEG = Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8))
DECODED = ("train/n01/0.JPEG: cannot be decoded", "expected whole images, such as .jpg, .jpeg, .png")

DATA = [
    # class folders
    data("16 bits", in_folders, picture("train/n01/0.JPEG", Image.new("I;16", (9, 9))), *DECODED, "8 bits per channel"),
    data("half a jpeg", in_folders, picture("train/n01/0.JPEG", JPEG, "jpeg", 0.5), *DECODED, "truncated"),
    data("a page in place of an image", in_folders, put("train/n01/0.JPEG", "<html>404</html>"), *DECODED),
    data("400 megapixels", in_folders, picture("train/n01/0.JPEG", Image.new("1", (20_000, 20_000))), *DECODED, "bomb"),
    data("a broken link", in_folders, link("val/n04/x.png", "nowhere.png"), "val/n04/x.png: cannot be read: No such"),
    data("a link to itself", in_folders, link("val/n04/x.png", "x.png"), "x.png: cannot be read: Too many levels"),
    data("a link to the folder above", in_folders, link("val/n04/up", ".."), "n04/up: is a link to a", "remove it"),
    data("a link to the root of the disk", in_folders, link("val/n04/up", "/"), "val/n04/up: is a link to a folder"),
    data("a pipe", in_folders, lambda root: os.mkfifo(root / "val/n04/x.png"), "x.png: is not a regular", "remove"),
    data("a class with a line break", in_folders, folder("n0\n4"), "a class is called 'n0\\n4'", "printable"),
    data("a class that is no text", in_folders, folder(b"n0\xff"), "a class is called 'n0\\udcff'", "printable"),
    data("images of no class", in_folders, lambda root: [
        path.rename(root / "val" / path.name) for path in [*root.glob("val/n0[45]/[0-3].*")]],
        "root/val: 8 images, first 0.JPEG, lie in no class folder", "expected val/CLASS/IMAGE"),
    data("a file in place of a folder", in_folders, lambda root: [shutil.rmtree(root / "val"), put("val", "")(root)],
        "class folders without val/", "expected class folders: train/ or base/, val/, test/ or novel/"),
    data("a flat split", in_folders, lambda root: [
        path.rename(root / "val" / f"{path.parent.name}{path.name}") for path in [*root.glob("val/n0[45]/[!.]*")]],
        "root/val: 8 images, first n040.JPEG, lie in no class folder; expected val/CLASS/IMAGE"),
    data("one folder deeper", in_folders, lambda root: [
        moved(split, f"mini/{split}")(root) for split in layouts.CLASSES],
        "found class folders in", "root/mini; set data.root to it"),
    data("two sets one folder deeper", in_folders, lambda root: [
        (shutil.copytree(root / split, root / "other" / split), moved(split, f"mini/{split}")(root))
        for split in layouts.CLASSES], "root/mini, class folders in", "root/other; set data.root to one of them"),
    data("an archive in the folder", in_folders, lambda root: [
        put("birds.zip", b"")(root), *(shutil.rmtree(root / split) for split in layouts.CLASSES)],
        "none of the known layouts, but 1 file (birds.zip); expected"),
    data("every image twice", in_folders, lambda root: [
        shutil.copyfile(path, path.with_name(f"{path.stem} (1){path.suffix}")) for path in [*root.glob("val/*/*.*")]],
        "8 images of 'val' are copies of others in it, pixel by pixel", "val/n04/0 (1).JPEG and", "remove the copies"),
    data("a class under two names", in_folders, lambda root: shutil.copytree(root / "val/n04", root / "val/mynah"),
        "4 images of 'val' are copies of others in it with other classes", "val/mynah/0.JPEG and", "remove the copies"),
    data("a class in two splits", in_folders, lambda root: shutil.copytree(root / "val/n04", root / "test/mynah"),
        "4 images of 'val' are also in 'test', pixel by pixel", "val/n04/0.JPEG and", "test/mynah/0.JPEG"),
    data("another case in another split", in_folders, several(moved("val/n04", "val/Dog"), renamed("dog")),
        "1 classes are in both 'val' and 'test', first 'Dog' and 'dog'; expected splits without common classes"),
    data("another spelling in another split", in_folders, several(
        moved("val/n04", f"val/{unicodedata.normalize('NFC', 'ménage')}"),
        renamed(unicodedata.normalize("NFD", "Ménage"))), "1 classes are in both 'val' and 'test', first 'ménage' and"),
    data("a space more in another split", in_folders, several(moved("val/n04", "val/dog "), renamed("dog")),
        "1 classes are in both 'val' and 'test', first 'dog ' and 'dog'"),
    data("several damaged images", in_folders, several(
        put("train/n01/0.JPEG", "x"), put("train/n02/1.Bmp", "x"), cut("train/n03/2.png")),
        "train/n01/0.JPEG: cannot be decoded", "train/n02/1.Bmp: cannot be decoded", "train/n03/2.png: cannot be"),
    data("many damaged images", in_folders, lambda root: [
        path.write_text("x") for path in root.glob("train/*/*.*")], "cannot be decoded", "; and 7 more images; exp"),
    data("a drawing in PostScript", in_folders, put("val/n04/0.JPEG", POSTSCRIPT), "val/n04/0.JPEG: cannot be decoded"),
    data("a metafile", in_folders, put("val/n04/0.JPEG", METAFILE), "val/n04/0.JPEG: cannot be decoded"),
    data("a page as PDF", in_folders, lambda root: noise(1).save(root / "val/n04/0.JPEG", "pdf"), "0.JPEG: cannot be"),
    data("an icon of macOS", in_folders, lambda root: noise(1, side=16).save(root / "val/n04/0.JPEG", "icns"),
        "val/n04/0.JPEG: cannot be decoded"),
    # images and CSV
    data("classes numbered in every list", in_csv, lambda root: [
        (root / f"{split}.csv").write_text("filename,label\n" + "".join(
            f"{name}_{j}.JPEG,{i}\n" for i, name in enumerate(names) for j in range(layouts.PER_CLASS)))
        for split, names in layouts.CLASSES.items()],
        "2 classes are in both 'train' and 'val', first '0'", "if every split numbers its own classes, write their"),
    data("a name that two files have", in_csv, several(
        copied("images/n05_0.JPEG", "images/x.jpg"), copied("images/n05_1.JPEG", "images/X.JPG"),
        add("val.csv", "x.JPG,n05\n")), "'x.JPG' can be 'X.JPG' and 'x.jpg'; keep one of them"),
    data("a folder of Windows that leads out", in_csv, add("val.csv", "..\\..\\x.JPEG,n05\n"), "../x.JPEG' leads"),
    data("a drawing in PostScript in a list", in_csv, put("images/n05_0.JPEG", POSTSCRIPT), "n05_0.JPEG: cannot be"),
    data("a CSV in UTF-16", in_csv, put("val.csv", "filename,label\n".encode("utf-16")), "val.csv: is not UTF-8 text"),
    data("a CSV in latin-1", in_csv, add("val.csv", "n05_0.JPEG,é\n".encode("latin-1")), "not UTF-8 text", "save it"),
    data("an empty CSV", in_csv, put("val.csv", ""), "val.csv: the header is ''", "expected 'filename,label'"),
    data("a CSV without rows", in_csv, put("val.csv", "filename,label\n"), "no image for 'val'"),
    data("a CSV with tabs", in_csv, put("val.csv", "filename\tlabel\n"), "is 'filename\\tlabel'", "expected"),
    data("a CSV without a header", in_csv, put("val.csv", "n05_0.JPEG,n05\n"), "the header is 'n05_0.JPEG,n05'"),
    data("no label", in_csv, add("val.csv", "x.JPEG,\n"), "val.csv, line 11", "one of them is empty"),
    data("no file name", in_csv, add("val.csv", ",n05\n"), "val.csv, line 11", "one of them is empty"),
    data("a file in two classes", in_csv, add("val.csv", "n05_0.JPEG,n04\n"), "lists 1 files twice", "'n05_0.JPEG'"),
    data("a quote without end", in_csv, put("val.csv", 'filename,label\nn05_0.JPEG,"n05\nn05_1.JPEG,n05\n'),
        "a class is called 'n05\\nn05_1.JPEG,n05", "printable"),
    data("a label of 200,000 characters", in_csv, add("val.csv", "n05_0.JPEG," + "x" * 200_000), "is not CSV (field"),
    data("a label of 300 characters", in_csv, put("val.csv", "filename,label\nn05_0.JPEG," + "x" * 300),
        "a class is called", "expected 1 to 255 printable characters"),
    data("a path of Windows", in_csv, add("val.csv", "C:\\n05\\x.JPEG,n05\n"), "1 of 9 files are not in", "C:"),
    data("a folder in place of an image", in_csv, lambda root: [
        (root / "images" / "x.png").mkdir(), add("val.csv", "x.png,n05\n")(root)], "1 of 9 files are not in"),
    # archives
    data("half an archive", in_zip, cut("images.zip"), "images.zip: File is not a zip file", "expected a zip archive"),
    data("an empty archive", in_zip, put("images.zip", b""), "images.zip: File is not a zip file"),
    data("an encrypted archive", in_zip, flagged("images.zip"), "cannot be read", "encrypted", "unencrypted zip"),
    data("a rotten archive", in_zip, rotten("images.zip", "images/n05_0.JPEG"), "n05_0.JPEG", "Bad CRC-32"),
    data("an entry of 257 MiB", in_zip, zipped("images.zip", "images/n05_0.JPEG", bytes(257 << 20)),
        "images/n05_0.JPEG: holds more than 256 MiB", "expected one image"),
    data("an archive of Windows", in_zip, packed("images.zip", 9), "is packed with Deflate64", "extract it, or"),
    data("a drawing in PostScript in an archive", in_zip,
        zipped("images.zip", "images/n05_0.JPEG", POSTSCRIPT.encode()), "images/n05_0.JPEG: cannot be decoded"),
    # category-split and CIFAR-FS pickles
    data("an empty pickle", in_pickles, put(SPLIT, b""), f"{SPLIT}: not a pickle of arrays", "Ran out of input"),
    data("half a pickle", in_pickles, cut(SPLIT), f"{SPLIT}: not a pickle of arrays, lists, dicts"),
    data("a list of images", in_pickles, dump(SPLIT, lambda data: list(data["data"])), "holds a list, expected a dict"),
    data("no labels", in_pickles, dump(SPLIT, lambda data: {"data": PIXELS}), "holds data; expected 'labels'"),
    data("labels that are one number", in_pickles, entry(SPLIT, labels=3), "labels is a int", LISTED),
    data("labels that are one text", in_pickles, entry(SPLIT, labels="3" * N), "labels is a str", LISTED),
    data("labels that are nothing", in_pickles, entry(SPLIT, labels=[None] * N), "the label None", LABEL),
    data("labels with fractions", in_pickles, entry(SPLIT, labels=[0.5] * N), "the label 0.5", LABEL),
    data("labels that are no number", in_pickles, entry(SPLIT, labels=np.full(N, np.nan)), "nan", LABEL),
    data("labels below 0", in_pickles, entry(SPLIT, labels=[-1] * N), "the label -1", LABEL),
    data("labels one-hot", in_pickles, entry(SPLIT, labels=np.eye(N, dtype=int)), "the label array([1, 0", LABEL),
    data("labels within themselves", in_pickles, dump(SPLIT, looped), SPLIT, "not a pickle of arrays"),
    data("a bomb of labels", in_pickles, dump(SPLIT, doubled), "the label [[[[...]", LABEL),
    data("an image that is a number", in_cifar, entry(CIFAR, data=3), "the value for images is a int", LISTED),
    data("four channels", in_pickles, entry(SPLIT, data=np.zeros((N, 9, 9, 4), np.uint8)), "uint8 (9, 9, 4)"),
    data("no pixels", in_pickles, entry(SPLIT, data=np.zeros((N, 0, 0, 3), np.uint8)), "image 0: cannot be decoded"),
    data("pixels as text", in_pickles, entry(SPLIT, data=["x"] * N), "image 0: <U1 ()", "expected uint8"),
    # cache pickles
    data("classes in a list", in_cached, entry(CACHED, class_dict=[1]), "holds a list, expected a dict"),
    data("indices that are none", in_cached, entry(CACHED, class_dict={"a": 3}), "class_dict['a'] is a int", LISTED),
    data("indices with fractions", in_cached, entry(CACHED, class_dict={"a": [0.0]}), "has image 0.0 of 8"),
    data("an index twice", in_cached, entry(CACHED, class_dict={"a": [0, 0]}), "has image 0 of 8 twice"),
    data("an index too large", in_cached, entry(CACHED, class_dict={"a": [99]}), "has image 99 of 8", "no such image"),
    data("an image without a class", in_cached, entry(CACHED, class_dict={"a": [0]}), "image 1 is in no class"),
    # npz
    data("half an npz", in_npz, cut("val_images.npz"), "val_images.npz: File is not a zip file", NPZ),
    data("an npz without images", in_npz, npz(pixels=PIXELS), "images.npy", "expected an npz file with"),
    data("an npz of floats", in_npz, npz(images=PIXELS / 255), "images are float64", "expected uint8 [N, height"),
    data("an npz of objects", in_npz, npz(images=np.array([[[["x"]]]] * N, object)), "images are object", "uint8"),
    data("an npz turned", in_npz, npz(images=np.asfortranarray(PIXELS)), "images are uint8", "in C order"),
    data("an npz of no array", in_npz, zipped("val_images.npz", "images.npy", b"no array"), "'images' is not an array"),
    data("an npz whose header has no end", in_npz, zipped("val_images.npz", "images.npy", npy((N, 12, 12, 3), b"")
        .replace(b"}", b"(")), "'images' is not an array", "expected a file by numpy.savez"),
    data("an npz with too few pixels", in_npz, zipped("val_images.npz", "images.npy", npy((N, 12, 12, 3), b"x")),
        "ends before image 8 of 8", "copy it again"),
    data("an npz of 10^18 pixels", in_npz, zipped("val_images.npz", "images.npy", npy((N, 10**9, 10**9, 3), b"x")),
        "ends before image 8 of 8"),
    data("an npz of nine images", in_npz, npz(images=np.zeros((9, 12, 12, 3), np.uint8)), "9 images, but 8"),
    data("a rotten npz", in_npz, rotten("val_images.npz", "images.npy"), "Bad CRC-32", NPZ),
    # png pickles
    data("classes without a name", in_png, entry("val_labels.pkl", label_specific=[7] * N), "has 7", "2 classes"),
    data("classes in text", in_png, entry("val_labels.pkl", label_specific=["0"] * N), "has '0'", "names 2 classes"),
    data("pngs by name", in_png, dump("val_images_png.pkl", lambda data: dict(enumerate(data))), "is a dict", LISTED),
    data("pngs that are text", in_png, dump("val_images_png.pkl", lambda data: ["x"] * N), "image 0: cannot be"),
    data("pngs that are none", in_png, dump("val_images_png.pkl", lambda _: [PIXELS[0, 0]] * N), "cannot be decoded"),
    data("a png that is PostScript", in_png, dump("val_images_png.pkl", lambda data: [
        np.frombuffer(POSTSCRIPT.encode(), np.uint8), *data[1:]]), "val_images_png.pkl, image 0: cannot be decoded"),
    # PIL pickles
    data("two lists", in_pil, dump("val.pth", lambda data: data[:2]), "expected (images, labels, {class: label})"),
    data("a label of no class", in_pil, dump("val.pth", lambda data: (data[0], [9] * N, data[2])), "belongs to no"),
    data("labels in lists", in_pil, dump("val.pth", lambda data: (data[0], [[0]] * N, data[2])), "label [0]", LABEL),
    data("arrays for pictures", in_pil, dump("val.pth", lambda data: (list(PIXELS), *data[1:])), "is a ndarray", "PIL"),
    # class lists
    data("a class without images", in_lists, add("splits/bertinetto/val.txt", "n99\n"), "no images in", "for n99"),
    data("a list of no class", in_lists, put("splits/bertinetto/val.txt", "\n\n"), "no image for 'val'"),
    data("a list that is no text", in_lists, put("splits/bertinetto/val.txt", b"\xff\xfe"), "is not UTF-8 text"),
    # JSON
    data("half a JSON", in_json, cut("val.json"), "val.json: ", "expected JSON with image_names and image_labels"),
    data("JSON without end", in_json, put("val.json", "[" * 100_000), "val.json: ", "expected JSON with image_names"),
    data("JSON that is a list", in_json, put("val.json", "[]"), "val.json: holds a list, expected a dict"),
    data("a number as image", in_json, entries("val.json", lambda data: data | {"image_names": [3] * N}),
        "image_names has 3, expected paths that end in class/file"),
    data("a name without a folder", in_json, entries("val.json", lambda data: data | {"image_names": ["0.jpg"] * N}),
        "image_names has '0.jpg'", "class/file"),
    data("an image listed twice", in_json, entries("val.json", lambda data: {
        name: [*values, values[0]] for name, values in data.items()}), "lists 1 files twice", "every file once"),
    data("an image that is not there", in_json, entries("val.json", lambda data: {
        "image_names": [*data["image_names"], "/x/n05/99.jpg"], "image_labels": [*data["image_labels"], 0]}),
        "1 of 9 files are not in", "first 'n05/99.jpg'"),
    data("an image in two places", in_json, lambda root: shutil.copytree(root / "pictures", root / "thumbs"),
        "'/home/someone/else/", "can be 'pictures/", "and 'thumbs/", "keep one of them, or name it in full"),
    data("labels that disagree", in_json, entries("val.json", lambda data: data | {"image_labels": [0, 1] * 4}),
        "image_labels do not agree with the images' folders", "one label per folder"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "damage", "words"), DATA)
def test_data_sets(
    write: Write, damage: Damage, words: tuple[str, ...], place: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = place / "root"
    root.mkdir()
    write(root, pictures())
    damage(root)
    before = set(cache.glob("*/"))
    said = answer(train.main, ["--dataset", "mine", "--root", root, "data.image_size=12"], capsys)
    check(said, (str(root), *words), lines=15 if "known layouts" in said or "one of:" in said else 1)
    assert len(said) < 2500
    assert set(cache.glob("*/")) == before, "no part of a cache is left"


# Data sets that are read, with what is told of them ------------------------------------------------------------------


HIDDEN = "files, hidden or of other programs, left out, first"
TOP_LEFT = noise(5, "L").getpixel((0, 0))
READ = [
    # transparency
    data("strokes on nothing", in_folders, saved("val/n04/x.png", transparent()), "1 image with transparent pixels",
        "which show white (data.background), first val/n04/x.png"),
    data("grey and alpha", in_folders, saved("val/n04/x.png", transparent("LA")), "1 image with transparent pixels"),
    data("a transparent colour of a palette", in_folders, palette(2), "with transparent pixels", "val/n04/p.png"),
    data("alpha for every colour", in_folders, palette(bytes([9] * 8)[:7] + b"\xff"), "with transparent pixels"),
    data("a transparent colour", in_folders, saved("val/n04/x.png", noise(5, "L"), transparency=TOP_LEFT),
        "1 image with transparent pixels"),
    data("a gif with a hole", in_folders, saved("val/n04/x.gif", noise(3).quantize(8), transparency=2),
        "1 image with transparent pixels", "val/n04/x.gif"),
    data("a webp with alpha", in_folders, saved("val/n04/x.webp", noise(4, "RGBA"), lossless=True), "with transparent"),
    data("pictures in a pickle with alpha", in_pil, dump("val.pth", lambda data: (
        [transparent(), *data[0][1:]], *data[1:])), "1 image with transparent pixels", "first val.pth, image 0"),
    data("the same alpha everywhere", in_folders, saved("val/n04/x.png", noise(5).convert("RGBA")), f"7 {HIDDEN}"),
    # copies and other programs' files
    data("a copy of Windows", lengthened(in_folders), copied("train/n01/3.jpg", "train/n01/3 - Copy.jpg"),
        "1 image of 'train' is a copy of others in it, pixel by pixel, first train/n01/3 - Copy.jpg and train/n01/3.j"),
    data("a copy of a browser", lengthened(in_folders), several(
        copied("val/n04/0.JPEG", "val/n04/0 (1).JPEG"), copied("val/n04/4.JPEG", "val/n04/4 (1).JPEG")),
        "2 images of 'val' are copies of others in it", "first val/n04/0 (1).JPEG and val/n04/0.JPEG"),
    data("an image in two classes", lengthened(in_folders), copied("val/n04/0.JPEG", "val/n05/3b.JPEG"),
        "1 image of 'val' is a copy of others in it with other classes"),
    data("an image in two splits", lengthened(in_folders), copied("val/n04/0.JPEG", "test/n06/x.JPEG"),
        "1 image of 'val' is also in 'test'", "first val/n04/0.JPEG and test/n06/x.JPEG"),
    data("thumbnails of a storage device", in_folders, several(
        copied("val/n04/0.JPEG", "val/n04/@eaDir/3.JPEG/SYNOFILE_THUMB_M.jpg"),
        copied("val/n04/0.JPEG", "val/@eaDir/n04/x.jpg")), f"9 {HIDDEN} test/n06/._0.jpg"),
    data("a bin of Windows", in_folders, copied("val/n04/0.JPEG", "val/$RECYCLE.BIN/S-1/$R1.jpg"), f"8 {HIDDEN}"),
    data("forks of macOS", in_folders, copied("val/n04/0.JPEG", "val/n04/.AppleDouble/3.JPEG"), f"8 {HIDDEN}"),
    data("a bin in an archive", in_zip, zipped("images.zip", "images/#recycle/x.jpg", b"x"),
        "1 file, hidden or of other programs, left out, first images.zip:images/#recycle/x.jpg"),
    # lists in JSON
    data("a file in two folders", in_json_deeper, lambda root: None, ""),
    data("paths of Windows in JSON", in_json, entries("val.json", lambda data: data | {
        "image_names": ["C:" + name.replace("/", "\\") for name in data["image_names"]]}), ""),
    data("JSON of another case", in_json, entries("val.json", lambda data: data | {
        "image_names": [name.upper() for name in data["image_names"]]}), ""),
    # what is read and what is left out
    *(data(f"an image in {suffix}", in_folders, saved(f"test/n06/x{suffix}", noise(9)), f"7 {HIDDEN}")
        for suffix in (".webp", ".tif", ".jfif", ".ppm", ".gif", ".jp2", ".tga", ".qoi", ".pcx", ".dib")),
    data("an empty class", in_folders, lambda root: (root / "val" / "n09").mkdir(),
        "1 class folder without images left out, first val/n09"),
    data("classes in families", in_folders, families, "1 class folder of 'train' hold several folders of images",
        "first 'n01' with 'lion' and 'lynx'; if those are the classes, move them up"),
    data("notes among images", in_folders, several(put("val/n04/notes.txt", "x"), put("val/README", "x")),
        "2 files are no images of a class (1 .txt, 1 without suffix), first val/README"),
    data("drawings without pixels", in_folders, put("val/n04/x.svg", "<svg/>"), "is no image of a class (1 .svg)"),
    data("images beside classes", in_folders, copied("val/n04/0.JPEG", "val/x.jpg"), "1 file is no image of a class"),
    data("a gif that moves", in_folders, saved("val/n04/x.gif", noise(1, "L"), save_all=True,
        append_images=[noise(2, "L")]), "1 image of several pictures, of which the first is read, first val/n04/x.gif"),
    data("inks", in_folders, saved("val/n04/x.tif", noise(1, "CMYK")), "1 image converted to RGB without a colour"),
    # orientation
    *(data(f"a photograph turned {orientation}", in_folders, oriented(f"val/n04/x.{kind}", orientation, kind),
        "1 image with an EXIF orientation, read as stored (data.orientation=exif turns them)", f"val/n04/x.{kind}")
        for orientation, kind in ((6, "jpeg"), (8, "jpeg"), (3, "png"), (5, "webp"))),
    data("an orientation that turns nothing", in_folders, oriented("val/n04/x.jpg", 1, "jpeg"), f"7 {HIDDEN}"),
    # names
    data("two cases of a class", in_folders, saved("val/N04/0.png", noise(1)),
        "1 classes of 'val' differ only in case from other classes, first 'N04' and 'n04'"),
    data("two spellings of a class", in_folders, several(
        moved("val/n04", f"val/{unicodedata.normalize('NFC', 'ménage')}"),
        saved(f"val/{unicodedata.normalize('NFD', 'ménage')}/x.png", noise(1))),
        "1 class name of 'val' written with composed and with decomposed characters, read as one"),
    data("files of macOS in a CSV", in_csv, several(
        moved("images/n05_0.JPEG", f"images/{unicodedata.normalize('NFD', 'ménage')}.JPEG"),
        put("val.csv", f"filename,label\n{unicodedata.normalize('NFC', 'ménage')}.JPEG,n05\nn04_1.JPEG,n04\n")), ""),
    data("another case in a CSV", in_csv, put("val.csv", "filename,label\nN05_0.jpeg,n05\nn04_1.JPEG,n04\n"), ""),
    data("a folder of Windows in a CSV", in_csv, several(moved("images/n05_0.JPEG", "images/a/n05_0.JPEG"),
        put("val.csv", "filename,label\na\\n05_0.JPEG,n05\nn04_1.JPEG,n04\n")), ""),
    data("a list with another case", in_lists, put("splits/bertinetto/val.txt", "N05\nn04\n"), ""),
    # archives and pickles
    data("backslashes in an archive", zipped_root(lambda name: name.replace("/", "\\")), lambda root: None, ""),
    data("an archive with a README", zipped_root(lambda name: f"birds/{name}", "README.md"), lambda root: None, ""),
    data("an archive with other folders", zipped_root(lambda name: f"b/{name}", "docs/a.txt"), lambda root: None, ""),
    data("a defaultdict", in_cached, dump(CACHED, defaulted), ""),
    # channels
    data("blue first", in_npz, blue_first, "the first channel's mean is 6", "the last one's 12", "unlike in most photo",
        "if OpenCV made the arrays, reverse the order of their channels"),
    *(data(f"blue first in {name}", dimmed(write, 0), lambda root: None, "the first channel's mean is", "OpenCV made")
        for name, write in (("a pickle", in_pickles), ("CIFAR's pickle", in_cifar), ("a cache pickle", in_cached))),
    data("blue last", dimmed(in_npz, 2), lambda root: None, ""),
    data("blue first in files, whose order is known", dimmed(in_csv, 0), lambda root: None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("write", "damage", "words"), READ)
def test_data_sets_that_are_read(write: Write, damage: Damage, words: tuple[str, ...], place: Path) -> None:
    """They are told of on every start, and in a sentence without the root."""
    (place / "root").mkdir()
    write(place / "root", pictures())
    damage(place / "root")
    root = place / "root" / "archive.zip" if (place / "root" / "archive.zip").exists() else place / "root"
    for _ in range(2):
        read = layouts.opened(root, place / "cache")
        told = "\n".join(read.doubts)
        for word in filter(None, words):
            assert word in told, told
        assert str(place) not in told and (any(words) or not told), told
    assert read.image_sizes == "12x12"


@pytest.mark.parametrize("write", [write for writers in layouts.LAYOUTS.values() for write in writers])
def test_data_sets_with_wrong_bytes_are_read_or_refused(write: Write, place: Path) -> None:
    """Any other exception than ValueError would end a command in a traceback."""
    random = np.random.default_rng(0)
    (place / "whole").mkdir()
    write(place / "whole", pictures())
    for number in range(12):
        shutil.copytree(place / "whole", place / f"{number}")
        file = random.choice(sorted(path for path in (place / f"{number}").rglob("[!.]*") if path.is_file()))
        content = bytearray(file.read_bytes())
        for position in random.integers(len(content), size=5):
            content[position] = random.integers(256)
        file.write_bytes(content[: random.integers(1, len(content))] if number % 4 == 0 else content)
        try:
            layouts.opened(place / f"{number}", place / "cache")
        except ValueError as error:
            assert str(place) in str(error)


def test_omniglot_with_a_folder_of_no_character(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("background", "evaluation"):
        (place / f"images_{part}" / "Gurmukhi" / "notes").mkdir(parents=True)
        picture(f"images_{part}/Gurmukhi/notes/0.png", Image.new("1", (9, 9)))(place)
    said = answer(train.main, ["--dataset", "omniglot", "--root", place], capsys)
    check(said, ("'Gurmukhi/notes'", "expected a name like Gurmukhi/character07"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("episodes.way=5", ("way=5 needs 5 classes, but the split has 3",)),
        ("episodes.way=2", ("queries=6 need 7 images per class, but the smallest class has 4",)),
        ("episodes.queries=2", ("way=5",)),
    ],
)
def test_classes_with_too_few_images(
    setting: str, words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.write_folders(place / "root", pictures())
    small = ["data.image_size=20", "model.backbone=conv64f", "training.device=cpu"]
    check(answer(train.main, ["--dataset", "mine", "--root", place / "root", setting, *small], capsys), words)


def test_validation_names_the_split_that_is_too_small(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write_folders(place / "root", pictures())
    settings = "episodes.way=2 episodes.queries=2 data.image_size=20 model.backbone=conv64f training.device=cpu".split()
    settings.append("validation.queries=15")
    said = answer(train.main, ["--dataset", "mine", "--root", place / "root", *settings], capsys)
    check(
        said,
        (
            "15 queries per class needs 2 classes of 16 images",
            "the val split has 2 classes and the smallest has 4 images",
        ),
    )


@pytest.mark.parametrize("damage", [cut("val.csv", 1.0), *(
    lambda root, change=change: (root / "val.csv").write_bytes(change((root / "val.csv").read_bytes()))
    for change in (lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r"))
)], ids=["as it was", "with a BOM", "of an old Mac"])  # fmt: skip
def test_csv_files_of_other_programs_are_read(damage: Damage, place: Path, cache: Path) -> None:
    layouts.write_csv(place / "root", pictures())
    damage(place / "root")
    assert layouts.opened(place / "root", cache).val.classes == ("n04", "n05")


def test_links_that_lead_elsewhere_are_followed(place: Path, cache: Path) -> None:
    """Data sets can be made of links; only links back to a parent folder are refused."""
    layouts.write_folders(place / "real", pictures())
    (place / "root").mkdir()
    for split in layouts.CLASSES:
        (place / "root" / split).symlink_to(place / "real" / split)
    assert layouts.opened(place / "root", cache).fingerprint == layouts.opened(place / "real", cache).fingerprint


def test_a_cache_whose_description_is_damaged_is_written_anew(place: Path) -> None:
    layouts.write_folders(place / "root", pictures())
    before = layouts.opened(place / "root", place / "cache")
    (description,) = (place / "cache").glob("*/info.json")
    os.truncate(description, 20)
    assert layouts.opened(place / "root", place / "cache").fingerprint == before.fingerprint


# Checkpoints and records ---------------------------------------------------------------------------------------------


def checkpoint(name: str, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> Damage:
    """Change tensors and state of a checkpoint, in place."""

    def damage(folder: Path) -> None:
        tensors, state = read_checkpoint(folder / name)
        change(tensors, state)
        write_checkpoint(folder / name, tensors, state)

    return damage


def bare(name: str, metadata: dict[str, str] | None) -> Damage:
    return lambda folder: save_file({"x": torch.ones(1)}, folder / name, metadata)


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def going(name: str, damage: Damage, *words: str) -> Any:
    return named(name, "stopped", damage, words)


def ended(name: str, damage: Damage, *words: str) -> Any:
    return named(name, "ended", damage, words)


WEIGHT = "model.meta_filter.filter_conv.weight"
MOMENTUM = "momentum.meta_filter.filter_conv.weight"
ANEW = "delete it to start this training anew"
CHECKPOINTS = [
    going("an empty checkpoint", put(LAST, b""), "last.safetensors is not a readable checkpoint", ANEW),
    going("half a checkpoint", cut(LAST), "last.safetensors is not a readable checkpoint", ANEW),
    going("a header of 10^18 bytes", put(LAST, struct.pack("<Q", 10**18) + b"{}"), "not a readable checkpoint", ANEW),
    going("a header that is no JSON", put(LAST, struct.pack("<Q", 8) + b"no JSON!"), "is not a readable checkpoint"),
    going("tensors of another program", bare(LAST, None), "not a checkpoint of dmf", "no 'dmf' metadata"),
    going("a state that is no JSON", bare(LAST, {STATE: "{'a'"}), "its 'dmf' metadata is not JSON"),
    going("a state without end", bare(LAST, {STATE: "[" * 100_000}), "its 'dmf' metadata is not JSON"),
    going("a state that is a list", bare(LAST, {STATE: "[]"}), "not hold what this version of dmf writes", "got []"),
    going("a state without threads", checkpoint(LAST, lambda _, state: state.pop("threads")), "threads: Field req"),
    going("no threads", checkpoint(LAST, lambda _, state: state.update(threads=0)), "threads: Input should be greater"),
    going("a history in words", checkpoint(LAST, lambda _, state: state.update(history="long")), "history: Input"),
    going("another key", checkpoint(LAST, lambda _, state: state.update(key="0" * 16)), "belongs to training 0000"),
    going("a weight is missing", checkpoint(LAST, lambda tensors, _: tensors.pop(WEIGHT)),
        "holds another model: 1 of its tensors differ", "got nothing, expected (8,"),
    going("a weight too much", checkpoint(LAST, lambda tensors, _: tensors.update({"model.x": torch.ones(2)})),
        "first x: got (2,), expected nothing"),
    going("a weight of another shape", checkpoint(LAST, lambda tensors, _: tensors.update({WEIGHT: torch.ones(1)})),
        "another model", "got (1,), expected (8,"),
    going("a momentum of another shape", checkpoint(LAST, lambda tensors, _: tensors.update({MOMENTUM: torch.ones(1)})),
        "another model", "got (1,), expected (8,"),
    going("a momentum of nothing", checkpoint(LAST, lambda tensors, _: tensors.update({"momentum.x": torch.ones(1)})),
        "first momentum.x: got (1,), expected nothing"),
    going("half a configuration", cut(CONFIG), "ExperimentConfig in", "config.json: damaged", "restore the file"),
    going("a configuration that is a list", put(CONFIG, "[]"), "config.json: Input should be an object", "got []"),
    going("an edited configuration", entries(CONFIG, lambda config: config | {"model": {"groups": 7}}),
        "groups=7 does not divide the 640 channels", "try one of 1, 2"),
    going("the configuration of another", entries(CONFIG, lambda config: config | {"training": {"seed": 3}}),
        "last.safetensors belongs to training"),
    ended("no configuration", gone(CONFIG), "holds no finished training: config.json is missing", "of a training"),
    ended("no record", gone(RECORD), "holds no finished training: training.json is missing"),
    ended("half a record", cut(RECORD), "TrainingRecord in", "training.json: damaged", "EOF while parsing"),
    ended("an empty record", put(RECORD, ""), "training.json: damaged (Invalid JSON: EOF", "restore the file"),
    ended("a record that is an image", put(RECORD, b"\x89PNG\x00\xff"), "training.json: damaged (Invalid JSON"),
    ended("an outcome that is none", entries(RECORD, lambda record: record | {"outcome": "great"}),
        "outcome: Input should be 'finished', 'diverged' or 'failed', got 'great'"),
    ended("a record of another version", entries(RECORD, lambda record: record | {"score": 1}),
        "score: no such parameter"),
    ended("one that failed", entries(RECORD, lambda record: record | {"outcome": "failed"}), "no finished training"),
    ended("no weights", gone(BEST), "its weights were not kept", "best.safetensors was deleted", "to train it anew"),
    ended("half of the weights", cut(BEST), "best.safetensors is not a readable checkpoint"),
    ended("weights without an epoch", checkpoint(BEST, lambda _, state: state.pop("epoch")), "epoch: Field required"),
    ended("weights of another model", checkpoint(BEST, lambda tensors, _: tensors.pop(WEIGHT)), "holds another model"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "damage", "words"), CHECKPOINTS)
def test_checkpoints(
    folder: str,
    damage: Damage,
    words: tuple[str, ...],
    trainings: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trainings / folder, place / folder)
    damage(place / folder)
    if folder == "stopped":
        said = answer(train.main, ["--resume", place / folder], capsys)
    else:
        said = answer(evaluate.main, [place / folder, "--episodes", "2"], capsys)
    check(said, (str(place / folder), *words))
    assert len(said) < 1000, "a damaged file is not repeated"
    assert not (place / folder / "evaluations").exists()


def test_an_evaluation_of_another_training_than_the_folder_holds(
    trainings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = answer(evaluate.main, [trainings / "ended", "training.seed=3"], capsys)
    check(said, ("training.seed: not as in training", "only root, device and threads can differ"))


def test_a_setting_that_a_training_was_not_started_with_is_named(
    trainings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["training.epochs=9", "model.groups=16", "training.threads=2"]
    said = answer(train.main, ["--resume", trainings / "stopped", *settings], capsys)
    check(
        said, ("as it was started, but got model.groups=16 (it has 8), training.epochs=9 (it has 2); leave that out",)
    )
    assert "threads" not in said, "it may differ"


def test_more_queries_than_images(trainings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(evaluate.main, [trainings / "ended", "--queries", "5000"], capsys)
    check(said, ("episodes of the test split", "queries=5000 need 5001 images per class, but the smallest class has"))


def test_a_folder_with_an_equals_sign_is_one(trainings: Path, place: Path) -> None:
    shutil.copytree(trainings / "ended", place / "groups=8")
    assert evaluate.main(["groups=8", "--episodes", "2"]) == 0


Weights = dict[str, Any]
CLASSIFIER, KERNELS = "global_clasifier.weight", "dw_gen.kernel_conv.weight"
NO_CHECKPOINT = "is not a checkpoint of tensors and numbers only"


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The weights of a small released model."""
    torch.manual_seed(0)
    return dict(released.to_state_dict(build_method(DMFConfig(), DataConfig(), base_classes=4)))


def state(name: str, change: Callable[[Weights], Any], *words: str) -> Any:
    return named(name, change, words)


RELEASED = [
    state("a list", lambda weights: list(weights), "holds a list, expected a state dict"),
    state("a tensor as state dict", lambda weights: {"state_dict": torch.ones(3)}, "a Tensor, expected a dict of"),
    state("numbers as names", lambda weights: {"state_dict": {1: torch.ones(3)}}, "expected a dict of tensors by name"),
    state("keys of another program", lambda weights: {f"encoder.{i}.weight": torch.ones(2) for i in range(9)},
        "it lacks global_clasifier.weight", "it holds 9 entries, 'encoder.0.weight', 'encoder.1.weight', 'en"),
    state("a whole training", lambda weights: {"epoch": 3, "optimizer": {"lr": 0.1}, "args": [1]},
        "it lacks global_clasifier.weight", "it holds 3 entries, 'epoch', 'optimizer', 'args'"),
    state("half of the weights", lambda weights: {k: v for k, v in weights.items() if not k.startswith("dw_gen")},
        "it lacks dw_gen.off_conv.weight, dw_gen.kernel_conv.weight; it holds", "'base.layer1.0.conv1.weight'"),
    state("nothing", lambda weights: {}, "is not a checkpoint of the released DMF: it lacks global_clasifier.weight"),
    state("a number as weight", lambda weights: weights | {CLASSIFIER: 3}, f"{CLASSIFIER} is a int, expected a tensor"),
    state("seven groups", lambda weights: weights | {KERNELS: torch.zeros(7, 1280, 3, 3)}, "7 groups do not divide"),
    state("no groups", lambda weights: weights | {KERNELS: torch.zeros(0, 1280)}, "0 groups do not divide"),
    state("a classifier of one side", lambda weights: weights | {CLASSIFIER: torch.zeros(4)}, "are not matrices"),
    state("a billion classes", lambda weights: weights | {CLASSIFIER: torch.zeros(1, 1).expand(10**9, 640)},
        "1000000000 base classes, expected 1 to 100000"),
    state("a weight of another shape", lambda weights: weights | {"base.layer1.0.conv1.weight": torch.zeros(2)},
        "holds another model: 1 of its tensors differ, first backbone.", "got (2,), expected (64, 3, 3, 3)"),
    state("a weight too much", lambda weights: weights | {"x": torch.zeros(2)}, "unknown keys ['x']"),
    state("weights that are no number", lambda weights: weights | {CLASSIFIER: weights[CLASSIFIER] * torch.nan},
        "1 tensors hold NaN or infinity, first global_clasifier.weight", "use another checkpoint"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), RELEASED)
def test_released_checkpoints(
    change: Callable[[Weights], Any],
    words: tuple[str, ...],
    weights: Weights,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(change(weights), place / "theirs.pth.tar")
    arguments = ["--resume", "theirs.pth.tar", "--dataset", "glyphs", "--episodes", "2", "data.image_size=20"]
    check(answer(evaluate.main, arguments, capsys), words)


@pytest.mark.parametrize("damage", [put("a.pth", b""), put("a.pth", "text"), cut("a.pth"), put("a.pth", b"PK\x03\x04")])
def test_files_that_are_no_released_checkpoint(
    damage: Damage, weights: Weights, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({CLASSIFIER: weights[CLASSIFIER]}, place / "a.pth")
    damage(place)
    said = answer(evaluate.main, ["--resume", "a.pth", "--dataset", "glyphs"], capsys)
    check(said, ("a.pth", NO_CHECKPOINT))
    assert "weights_only" not in said, "nobody is told to load it with its code"


# The store -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(place: Path) -> Path:
    """With a whole sweep `demo`; its records are linked as `training.json` and `evaluation.json` for damage."""
    ledger, plan = Ledger(place / "runs"), demo()
    ledger.write_plan(plan)
    kept = records_of(plan.cells)
    for training in kept.trainings.values():
        ledger.write_training(training)
    for evaluation in kept.evaluations.values():
        ledger.write_evaluation(evaluation)
    cell = plan.cells[0]
    folder = ledger.folder(cell.trainings[0].key)
    (ledger.store / "training.json").symlink_to(folder / RECORD)
    (ledger.store / "evaluation.json").symlink_to(folder / "evaluations" / f"{cell.evaluation.key}.json")
    return ledger.store


def stored(name: str, damage: Damage, *words: str) -> Any:
    return named(name, damage, words)


PLAN = "sweeps/demo/plan.json"
STORED = [
    stored("half an evaluation", cut("evaluation.json"), "EvaluationRecord in", "damaged", "restore the file"),
    stored("an empty evaluation", put("evaluation.json", ""), "EvaluationRecord in", "damaged"),
    stored("an evaluation that is a list", put("evaluation.json", "[1]"), "Input should be an object, got [1]"),
    stored("an accuracy in words", entries("evaluation.json", lambda record: record | {"accuracy": "high"}),
        "accuracy: Input should be a valid number, got 'high'"),
    stored("an accuracy that is none", entries("evaluation.json", lambda record: record | {"accuracy": float("nan")}),
        "says accuracy=nan, but its episodes give", "evaluate again"),
    stored("accuracies in percent", entries("evaluation.json", lambda record: record | {
        "episode_accuracies": [100 * accuracy for accuracy in record["episode_accuracies"]]}),
        "holds accuracies outside [0, 1]", "evaluate again"),
    stored("one episode", entries("evaluation.json", lambda record: record | {"episode_accuracies": [0.5]}),
        "holds 1 episodes, but its config says 20", "evaluate again"),
    stored("no bank", entries("evaluation.json", lambda record: {k: v for k, v in record.items() if k != "bank"}),
        "bank: Field required"),
    stored("the evaluation of another", entries("evaluation.json", lambda record: record | {"training_key": "0" * 16}),
        "is in the place of", "remove it and evaluate again"),
    stored("half a training", cut("training.json"), "training.json: damaged", "restore the file"),
    stored("an outcome that is none", entries("training.json", lambda record: record | {"outcome": 1}),
        "outcome: Input should be 'finished'", "got 1"),
    stored("half a plan", cut(PLAN), "found no sweep", "run one first"),
    stored("a plan of unknown tables", entries(PLAN, lambda plan: plan | {
        "cells": [plan["cells"][0] | {"table": "9"}]}), "found no sweep"),
    stored("a plan of an unknown method", entries(PLAN, lambda plan: plan | {
        "cells": [plan["cells"][0] | {"config": {"model": {"method": "x"}}}]}), "found no sweep"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), STORED)
def test_records_of_a_store(
    damage: Damage, words: tuple[str, ...], store: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(store)
    if "plan" in words[0] or "no sweep" in words[0]:
        check(answer(report.main, ["--store", store, "--output", place / "out"], capsys), words)
        assert not (place / "out").exists()
        return
    assert report.main(["--accept-stale", "--store", str(store), "--output", str(place / "out")]) == 0
    tables = [json.loads(path.read_text()) for path in (place / "out").rglob("table_*.json")]
    cells = [cell for table in tables for section in table["sections"] for cell in section["cells"]]
    cells = [cell for cell in cells if cell["state"] != "not planned"]
    missing = [cell for cell in cells if cell["state"] != "done"]
    assert {(cell["state"], cell["accuracy"]) for cell in missing} == {("damaged", None)}
    assert len({reason for cell in missing for reason in cell["reasons"]}) == 1 and len(missing) < len(cells) / 2
    check(" ".join(missing[0]["reasons"]), words)


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nothing"])
def test_a_report_that_can_not_be_written(
    output: str, store: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "file").touch()
    said = answer(report.main, ["--store", store, "--output", output], capsys)
    check(said, (output,))


SEARCH = "name: look\nset: {model.backbone: conv64f}\n"
SEARCH += "search: {trials: 5, parameters: {model.groups: {choice: [1, 64]}}}\n"
TRIED = {"values": {"model.groups": 1}, "key": "k", "accuracy": 0.5, "epochs": 1, "outcome": "finished"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        named("empty", "", ("search.json: damaged", "restore the file")),
        named("a list", "[]", ("SearchResults in", "Input should be an object, got []")),
        named("no base", "{}", ("base: Field required", "parameters: Field required")),
        named("an accuracy of 5", {"accuracy": 5.0}, ("tried.0.accuracy: Input should be less than or equal to 1",)),
        named("an accuracy that is none", {"accuracy": None}, ("tried.0.accuracy: Input should be a valid number",)),
        named("a value without a section", {"values": {"groups": 1}}, ("tried.0.values.groups", "String should match")),
        named("an outcome that is none", {"outcome": "good"}, ("tried.0.outcome: Input should be 'running'",)),
    ],
)
def test_what_a_search_has_tried(
    text: str | dict[str, Any], words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "look.yaml").write_text(SEARCH)
    path = results_path(Ledger(place / "runs"), "look")
    path.parent.mkdir(parents=True)
    if isinstance(text, dict):
        base = ExperimentConfig().replace(model__backbone="conv64f").model_dump(mode="json")
        results = {"base": base, "parameters": {"model.groups": {"choice": [1, 64]}}, "tried": [TRIED | text]}
        path.write_text(json.dumps(results))
    else:
        path.write_text(text)
    check(answer(sweep.main, ["look.yaml", "--plan", "--store", "runs"], capsys), words, lines=3)
