"""Hostile files and names: each attack would make a file that no test may find. Attacks are first shown to work."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import os
import pickle
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import EpsImagePlugin, Image
from rich.console import Console

from dmf import evaluate, train
from dmf.data.layouts.pickles import read_pickle
from dmf.records.records import BEST, LAST, RECORD, Failure
from orchestrator import report, sweep
from orchestrator.report import FORMATS
from orchestrator.running.progress import Progress
from orchestrator.spec.file import parse_yaml
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import results_path
from tests import test_data as layouts
from tests.records_in_memory import InMemory
from tests.test_bad_input import POSTSCRIPT, SEARCH, START, answer, dump, pictures, put, zipped
from tests.test_report import demo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that an attack would make, outside every folder that a command is given."""
    return tmp_path_factory.mktemp("elsewhere") / "victim"


class Touches:
    """Its pickle calls os.system, and makes a file when a careless program unpickles it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.system, (f"touch {shlex.quote(str(self.victim))}",)


def assert_real(attack: Callable[[], object], victim: Path) -> None:
    """Check that the attack works on a careless program."""
    attack()
    assert victim.exists(), "the attack is a real one"
    victim.unlink()


# Pickles -------------------------------------------------------------------------------------------------------------

PICKLED = [
    pytest.param(write, name, id=name)
    for write, names in (
        (layouts.write_category_pickles, ["miniImageNet_category_split_train_phase_train.pickle"]),
        (layouts.write_cache_pickles, ["mini-imagenet-cache-val.pkl"]),
        (layouts.write_cifar_pickles, ["CIFAR_FS_test.pickle"]),
        (layouts.write_npz, ["val_labels.pkl", "val_images.npz"]),
        (layouts.write_png_pickles, ["val_images_png.pkl", "train_labels.pkl"]),
        (layouts.write_picture_pickles, ["train.pth"]),
    )
    for name in names
]


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(("write", "name"), PICKLED)
def test_no_layout_runs_what_its_files_hold(
    write: Callable[[Path, layouts.Images], None],
    name: str,
    protocol: int,
    victim: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(place, pictures())
    attack = pickle.dumps({"data": Touches(victim)}, protocol)
    assert_real(lambda: pickle.loads(attack), victim)
    if name.endswith(".npz"):
        np.savez(place / name, images=np.array([Touches(victim)], object))
        assert_real(lambda: np.load(place / name, allow_pickle=True)["images"], victim)
    else:
        (place / name).write_bytes(attack)
    said = answer(train.main, ["--dataset", "mine", "--root", place, "data.image_size=12"], capsys)
    assert name in said and ("system" in said or "expected uint8" in said)
    assert not victim.exists()


def test_a_cache_of_pictures_that_torch_saved_is_not_loaded(
    victim: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    layouts.write_picture_pickles(place, pictures())
    torch.save(([Touches(victim)], [0], {"a": 0}), place / "val.pth")
    assert_real(lambda: torch.load(place / "val.pth", weights_only=False), victim)
    assert "val.pth: not a pickle of" in answer(train.main, ["--dataset", "mine", "--root", place], capsys)
    assert not victim.exists()


def test_names_of_admitted_modules_lead_nowhere(victim: Path) -> None:
    """A pickle may name attributes of allowed names: `Image.os.system`, or a method of a stand-in's class."""
    for module, name in (("PIL.Image", "os.system"), ("numpy", "ndarray.__reduce__"), ("builtins", "object.__class__")):
        attack = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode()
        attack += b"\x93\x8c" + bytes([len(f"touch {victim}")]) + f"touch {victim}".encode() + b"\x85R."
        if name == "os.system":
            assert_real(lambda attack=attack: pickle.loads(attack), victim)
        with pytest.raises(ValueError, match="asks for"):
            read_pickle(io.BytesIO(attack), "some.pickle")
        assert not victim.exists()


# Checkpoints and records ---------------------------------------------------------------------------------------------


def tar_of_torch(path: Path, victim: Path) -> None:
    """PyTorch's oldest format: a tar archive of pickles, here also with a name that leads out of it."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors", f"../../../../../../../..{victim}"):
            data = pickle.dumps(Touches(victim), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


CHECKPOINTS: dict[str, Callable[[Path, Path], object]] = {
    "a zip of torch": lambda path, victim: torch.save({"state_dict": Touches(victim)}, path),
    "an old file of torch": lambda path, victim: torch.save(
        {"state_dict": Touches(victim)}, path, _use_new_zipfile_serialization=False
    ),
    "a pickle": lambda path, victim: path.write_bytes(pickle.dumps(Touches(victim))),
    "a tar of torch": tar_of_torch,
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_of_strangers_runs_nothing(
    kind: str, victim: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    CHECKPOINTS[kind](place / "theirs.pth.tar", victim)
    if kind != "a tar of torch":
        careless = pickle.load if kind == "a pickle" else lambda file: torch.load(file, weights_only=False)
        with open(place / "theirs.pth.tar", "rb") as file:
            assert_real(lambda: careless(file), victim)
    said = answer(evaluate.main, ["--resume", "theirs.pth.tar", "--dataset", "glyphs"], capsys)
    assert "theirs.pth.tar is not a checkpoint of tensors and numbers only" in said
    said = answer(train.main, ["--resume", "theirs.pth.tar"], capsys)
    assert "there is no config.json" in said
    assert not victim.exists() and {path.name for path in place.iterdir()} == {"theirs.pth.tar"}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("name", [LAST, BEST, RECORD])
def test_files_of_a_training_run_nothing(
    name: str,
    kind: str,
    trainings: Path,
    victim: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(trainings / ("stopped" if name == LAST else "ended"), place / "folder")
    CHECKPOINTS[kind](folder / name, victim)
    command = (train.main, ["--resume", folder]) if name == LAST else (evaluate.main, [folder, "--episodes", "2"])
    assert str(folder / name) in answer(*command, capsys)
    assert not victim.exists()


def test_files_of_a_store_run_nothing(
    victim: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (place / "look.yaml").write_text(SEARCH)
    ledger = Ledger(place / "runs")
    ledger.write_plan(demo())
    for path in (results_path(ledger, "look"), ledger.sweep_folder("demo") / "plan.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(Touches(victim)))
    assert "search.json: damaged" in answer(sweep.main, ["look.yaml", "--plan", "--store", "runs"], capsys)
    assert "found no sweep" in answer(report.main, ["--store", "runs"], capsys)
    assert not victim.exists()


# Sweep files ---------------------------------------------------------------------------------------------------------

TAGS = [
    "!!python/object/apply:os.system ['touch {}']",
    "!!python/object/new:os.system ['touch {}']",
    "!!python/object/apply:subprocess.check_output [[touch, '{}']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object/new:tuple [!!python/object/apply:map [!!python/name:os.system , ['touch {}']]]",
]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_yaml_make_nothing(
    tag: str, victim: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    text = tag.format(victim)
    if "touch" in text:
        assert_real(lambda: yaml.load(text, yaml.UnsafeLoader), victim)
    (place / "sound.yaml").write_text(START)
    (place / "bad.yaml").write_text(f"about: {text}\n{START}")
    number = "training.epochs"  # a path would be taken as it is
    for arguments in (["bad.yaml"], ["sound.yaml", f"{number}={text}"], ["sound.yaml", f"parts.0.{number}={text}"]):
        said = answer(sweep.main, [*arguments, "--plan"], capsys)
        assert "could not determine a constructor for the tag" in said and "is not valid YAML" in said
    assert "does not exist" in answer(sweep.main, ["sound.yaml", f"data.root={text}", "--plan"], capsys)
    assert not victim.exists()


def test_a_key_may_be_called_as_python_s_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "{__class__: x, __init__: {__globals__: y}}"
    assert parse_yaml(text, "s") == {"__class__": "x", "__init__": {"__globals__": "y"}}
    (place / "s.yaml").write_text(START)
    for setting in ("__class__=x", "data.__class__=x", "evaluation.__init__=x", "parts.0.model.__dict__=x"):
        assert "no such name" in answer(sweep.main, ["s.yaml", setting, "--plan"], capsys)
    for setting in ("model.__class__=x", "__class__=x", "model.__dict__.x=3"):
        said = answer(train.main, [setting], capsys)
        assert "is not a parameter; the parameters there are" in said or "is not a section; the sections are" in said


@pytest.mark.parametrize("name", ["../x", "..", "/tmp/x", "a/../../x", "a\\..\\x", "~", "x\n", "-x", ".x"])
def test_sweeps_stay_in_their_store(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Through a file, a setting, a plan placed in the store, and an argument."""
    (place / "s.yaml").write_text(START)
    (place / "bad.yaml").write_text(START.replace("name: s", f"name: {name!r}".replace("'", '"')))
    for arguments in (["bad.yaml"], ["s.yaml", f"name={name!r}".replace("'", '"')]):
        for more in (["--plan"], ["--store", place / "runs"]):
            assert "name: got " in answer(sweep.main, [*arguments, *more], capsys)
    assert {path.name for path in place.iterdir()} == {"s.yaml", "bad.yaml"}
    ledger = Ledger(place / "store" / "runs")
    ledger.write_plan(demo())
    planted = ledger.sweep_folder("demo") / "plan.json"
    planted.write_text(json.dumps({**demo().model_dump(mode="json"), "name": name}))
    out = place / "store" / "out"
    said = answer(report.main, ["--store", ledger.store, "--output", out], capsys)
    assert "expected lower-case letters, digits, - and _" in said or "found no sweep" in said
    if not name.startswith("-"):  # an option, for argparse
        assert "no sweep" in answer(report.main, [name, "--store", ledger.store, "--output", out], capsys)
    assert {path.name for path in (place / "store").iterdir()} == {"runs"}


# Archives and names --------------------------------------------------------------------------------------------------


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not any("cache" in part for part in path.parts)}


@pytest.mark.parametrize("name", ["../victim", "/{}", "train/../../victim", "train/n01/../../../v.png", "C:\\victim"])
def test_names_in_an_archive_are_never_written(name: str, victim: Path, place: Path, cache: Path) -> None:
    """Nothing is extracted: an archive with such names is refused, or read with them as plain names."""
    layouts.write_folders(place / "extracted", pictures())
    layouts.zip_folder(place / "extracted", place / "root.zip", "")
    with zipfile.ZipFile(place / "root.zip", "a") as archive:
        archive.writestr(name.format(victim), layouts.png(pictures()["train"]["n01"][0] ^ 1))
    before, outside = everything(place), everything(place.parent)
    try:
        data = layouts.opened(place / "root.zip", cache)
        assert set(data.train.classes) <= {*layouts.CLASSES["train"]}
    except ValueError as error:
        assert "root.zip" in str(error)
    assert everything(place) == before and everything(place.parent) == outside and not victim.exists()


def test_a_link_in_an_archive_is_no_link(victim: Path, place: Path, cache: Path) -> None:
    """A link in a zip archive is an entry whose bytes are the target's name."""
    secret = victim.with_name("secret.png")
    secret.write_bytes(layouts.png(pictures()["train"]["n01"][0]))
    layouts.write_folders(place / "extracted", pictures())
    layouts.zip_folder(place / "extracted", place / "root.zip", "")
    entry = zipfile.ZipInfo("train/n01/link.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(place / "root.zip", "a") as archive:
        archive.writestr(entry, str(secret))
    with pytest.raises(ValueError, match=r"root\.zip:train/n01/link\.png: cannot be decoded"):
        layouts.opened(place / "root.zip", cache)


def test_a_tar_archive_is_not_opened(victim: Path, place: Path, cache: Path) -> None:
    tar_of_torch(place / "root.tar", victim)
    with pytest.raises(ValueError, match=r"root\.tar: File is not a zip file; expected a zip archive"):
        layouts.opened(place / "root.tar", cache)
    assert not victim.exists()


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ghostscript(victim: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of Ghostscript, which makes the victim's file when it is started."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {shlex.quote(str(victim))}\nexit 1\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow remembers where it is
    return folder / "gs"


@pytest.mark.parametrize(
    ("write", "damage"),
    [
        (layouts.write_folders, put("train/n01/0.JPEG", POSTSCRIPT)),
        (layouts.write_csv, put("images/n01_0.JPEG", POSTSCRIPT)),
        (layouts.write_class_lists, put("data/n01/0.png", POSTSCRIPT)),
        (layouts.write_json, put("pictures/n01/0.jpg", POSTSCRIPT)),
        (layouts.write_csv_and_zip, zipped("images.zip", "images/n01_0.JPEG", POSTSCRIPT.encode())),
        (
            layouts.write_png_pickles,
            dump("train_images_png.pkl", lambda data: [np.frombuffer(POSTSCRIPT.encode(), np.uint8), *data[1:]]),
        ),
    ],
    ids=["folders", "csv", "lists", "json", "archive", "pickle"],
)
def test_a_picture_in_postscript_starts_no_interpreter(
    write: Callable[..., None],
    damage: Callable[[Path], object],
    ghostscript: Path,
    victim: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def careless() -> None:
        with (
            contextlib.suppress(OSError, subprocess.CalledProcessError),
            Image.open(io.BytesIO(POSTSCRIPT.encode())) as image,
        ):
            image.load()

    assert_real(careless, victim)
    (place / "root").mkdir()
    write(place / "root", pictures())
    damage(place / "root")
    said = answer(train.main, ["--dataset", "mine", "--root", place / "root", "data.image_size=12"], capsys)
    assert "cannot be decoded (cannot identify image file" in said
    assert not victim.exists(), "the interpreter was started"


def test_pictures_are_opened_with_a_list_of_formats_everywhere() -> None:
    folders = [ROOT / name for name in ("dmf", "reports", "orchestrator", "benchmarks")]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                assert any(keyword.arg == "formats" for keyword in node.keywords), f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", ["../../secret.png", "{}/secret.png", "n04/../../../secret.png", "./../../secret.png"])
def test_lists_name_nothing_outside_of_the_root(
    name: str, victim: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    name = name.format(victim.parent)
    for secret in (victim.with_name("secret.png"), place / "secret.png"):
        secret.write_bytes(layouts.png(pictures()["train"]["n01"][0]))
    rows = {"csv": f"{name},n05\n", "lists": f"{name}\n"}
    in_csv, in_lists = (
        (layouts.write_csv, "csv/val.csv"),
        (layouts.write_class_lists, "lists/splits/bertinetto/val.txt"),
    )
    for write, listed in (in_csv, in_lists):
        root = place / Path(listed).parts[0]
        write(root, pictures())
        with open(place / listed, "a") as file:
            file.write(rows[root.name])
        said = answer(train.main, ["--dataset", "mine", "--root", root], capsys)
        assert "leads outside; expected a relative name without '..'" in said


def test_names_can_not_steer_a_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write_folders(place / "root", pictures())
    for name in ("\x1b]0;owned\x07\x1b[2J.png", "\u202egnp.exe.png", "\udcff.png"):
        strange = place / "root" / "val" / "n04" / name
        strange.write_bytes(b"no image")
        said = answer(train.main, ["--dataset", "mine", "--root", place / "root", "data.image_size=12"], capsys)
        assert "cannot be decoded" in said and "val/n04/\\" in said
        assert all(character.isprintable() or character == "\n" for character in said)
        strange.unlink()


# Shells --------------------------------------------------------------------------------------------------------------

EXPANSIONS = ["$(touch victim)", "`touch victim`", "; touch victim #", "| touch victim", "&& touch victim"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, env=environment)


def test_values_never_reach_a_shell(place: Path) -> None:
    for text in EXPANSIONS:
        subprocess.run(f"echo {text}", shell=True, capture_output=True)
        assert Path("victim").exists(), "the attack is a real one"
        Path("victim").unlink()
    Path("s.yaml").write_text(
        yaml.safe_dump({"name": "s", "about": " ".join(EXPANSIONS), "parts": [{"table": "2c"}]}, allow_unicode=True)
    )
    everything_at_once = "".join(EXPANSIONS)
    assert run("orchestrator.sweep", "s.yaml", f"data.root={everything_at_once!r}", "--plan").returncode == 2
    layouts.write_folders(place / everything_at_once, pictures())
    os.rename(place / everything_at_once / "val" / "n04", place / everything_at_once / "val" / EXPANSIONS[0])
    done = run("dmf.train", "--dataset", "mine", "--root", everything_at_once, "data.image_size=12")
    assert done.returncode == 2 and "way=5 needs 5 classes, but the split has 3" in done.stderr
    assert not list(place.rglob("victim"))


def test_a_command_that_is_printed_can_be_pasted(
    trainings: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    folder = shutil.copytree(trainings / "ended", place / EXPANSIONS[0])
    assert train.main(["--resume", str(folder)]) == 0
    command = capsys.readouterr().out.partition("next: python -m dmf.evaluate ")[2]
    echoed = subprocess.run(f"printf %s {command}", shell=True, capture_output=True, text=True)
    assert echoed.stdout == str(folder) and not Path("victim").exists()


# Reports -------------------------------------------------------------------------------------------------------------

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror=alert(1)>" onmouseover="x" [a](javascript:alert(1)) '
    r"\input{/etc/passwd}\write18{touch victim}}$ %{ & # ^^M \\ [x](http://a.b) | ` "
    '=cmd|"/c calc"!A0 @SUM(1) +1 -1 \x1b]0;owned\x07 {{ 7*7 }} {% raw %}'
)
HARMLESS = "x"


class Elements(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.addresses |= {value or "" for name, value in attrs if name in ("href", "src")}


def outputs(place: Path, text: str) -> dict[str, str]:
    """Every file and the terminal lines of a report in which the sweep and the failures contain `text`."""
    records, plan = InMemory(), demo()
    for config in (config for cell in plan.cells for config in cell.trainings):
        records.ended(config, "failed", Failure(reason=text))
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    plan = SweepPlan(name="s", about=text, cells=tuple(cell for cell in plan.cells if cell.table == "2c"))
    paths = report.report(plan, records, place / str(len(text)), console=console)
    assert isinstance(console.file, io.StringIO)
    return {path.name: path.read_text() for path in paths} | {"terminal": console.file.getvalue()}


@pytest.fixture
def reports(place: Path) -> tuple[dict[str, str], dict[str, str]]:
    """With hostile and with harmless text."""
    hostile, harmless = outputs(place, HOSTILE), outputs(place, HARMLESS)
    names = {f"table_2c.{suffix}" for suffix in (*(suffix for suffix, _ in FORMATS.values()), "html")}
    names |= {f"claims.{suffix}" for suffix in ("md", "csv", "json")} | {"index.html", "terminal"}
    assert set(hostile) == set(harmless) == names
    return hostile, harmless


def test_html_shows_hostile_text_as_text(reports: tuple[dict[str, str], dict[str, str]]) -> None:
    assert ("script", ()) in Elements(HOSTILE).found, "the attack is a real one"
    for name in ("table_2c.html", "index.html"):
        hostile, harmless = (Elements(written[name]) for written in reports)
        assert hostile.found == harmless.found and hostile.addresses == harmless.addresses
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in reports[0][name] and "{{ 7*7 }}" in reports[0][name]


def test_latex_shows_hostile_text_as_text(reports: tuple[dict[str, str], dict[str, str]]) -> None:
    commands = [set(re.findall(r"\\(?:[A-Za-z]+|.)", written["table_2c.tex"])) for written in reports]
    escapes = {
        "\\allowbreak",
        "\\textbackslash",
        "\\textasciicircum",
        "\\textasciitilde",
        *(f"\\{c}" for c in "{}&%$#_"),
    }
    assert commands[0] <= commands[1] | escapes
    unbroken = " ".join(reports[0]["table_2c.tex"].replace(r"\allowbreak{}", "").split())
    assert r"\textbackslash{}write18\{touch victim\}" in unbroken
    assert "^^" not in reports[0]["table_2c.tex"], "TeX reads ^^M as a character"
    bare = re.sub(r"\\[{}&%$#_\\]", "", reports[0]["table_2c.tex"])
    assert bare.count("{") == bare.count("}") and bare.count("%") == 1, "the one that is ours"


def test_markdown_shows_hostile_text_as_text(reports: tuple[dict[str, str], dict[str, str]]) -> None:
    text = reports[0]["table_2c.md"]
    assert not re.search(r"(?<!\\)(<|\[|`)", text) and "\\<script>" in text
    counts = [len(re.findall(r"(?<!\\)\|", written["table_2c.md"])) for written in reports]
    assert counts[0] == counts[1]


def test_no_cell_of_a_csv_is_a_formula(reports: tuple[dict[str, str], dict[str, str]]) -> None:
    for written in reports:
        for row in csv.reader(io.StringIO(written["table_2c.csv"])):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")) and not re.match(r"-(?![0-9.]+$)", cell)


def test_no_output_steers_a_terminal(reports: tuple[dict[str, str], dict[str, str]]) -> None:
    for name, text in reports[0].items():
        assert "\x1b" not in text and "\x07" not in text, name
    assert r"\x1b]0;owned\x07" in reports[0]["table_2c.md"].replace("\\\\", "\\")


def test_brackets_in_an_error_are_no_markup_of_the_terminal() -> None:
    """Rich reads [/x] in a plain string as the end of a style, and fails if none has begun."""
    console = Console(width=200, height=50, file=io.StringIO(), force_terminal=True)
    progress = Progress("s", console)
    progress.planned("key", "groups=[/1]", 3)
    progress.ended("key", "failed", "got uint8 [h, w, 3] in [/data]")
    console.print(progress.table())
    assert isinstance(console.file, io.StringIO)
    assert "groups=[/1]" in console.file.getvalue() and "uint8 [h, w, 3] in [/data]" in console.file.getvalue()


def test_a_folder_of_results_may_have_brackets(place: Path) -> None:
    Ledger(place / "runs").write_plan(demo())
    assert report.main(["--store", str(place / "runs"), "--output", str(place / "a[/b]")]) == 0
    assert (place / "a[" / "b]" / "demo" / "table_2c.md").is_file()
