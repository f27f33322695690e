"""Archives hold what a store holds, name no machine, and are refused when they are not what was written."""

from __future__ import annotations

import getpass
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmf.config import EvaluationConfig
from dmf.records.records import EvaluationRecord, Failure, Provenance
from dmf.values import Value
from orchestrator import archive, forget, report, results, status
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import SweepPlan, plan
from orchestrator.store.archive import Archive, import_archive, write_archive
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import SearchResults, Tried, results_path
from tests import test_looks
from tests.records_in_memory import InMemory, planned
from tests.sites import unchecked

TEN = EvaluationConfig(episodes=10)
SECRET = "/home/someone/images"


def counted(cell, key: str, offset: int) -> EvaluationRecord:
    """An evaluation with answers per class, of a split of 20 classes."""
    correct = np.random.default_rng(offset).integers(0, 16, (10, 5))
    accuracies = correct.sum(1) / 75
    return EvaluationRecord(
        format=2,
        training_key=key,
        evaluation_key=cell.evaluation.key,
        config=cell.evaluation,
        accuracy=float(accuracies.mean()),
        ci95=float(1.96 * accuracies.std() / np.sqrt(10)),
        correct=tuple(map(tuple, correct.tolist())),
        classes=20,
        bank="b",
        data_fingerprint="0" * 64,
        epoch=1,
        seconds=1.0,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A sweep of three rows and two seeds, one of which failed with a path in its reason."""
    glyphs = {"data__name": "birds", "data__root": SECRET, "model__backbone": "conv64f"}
    cells = [planned("2d", TEN, (0, 1), model__alignment=alignment, **glyphs) for alignment in (0, 1, "ode")]
    cells.append(planned("1", TEN, (0,), **glyphs | {"model__method": "proto_net"}))
    ledger, records = Ledger(tmp_path / "runs"), InMemory()
    ledger.write_plan(SweepPlan(format=2, name="s", about="Rows.", cells=tuple(cells)))
    for number, cell in enumerate(cells):
        for config in cell.trainings:
            if (number, config.training.seed) == (2, 1):
                reason = f"OSError: {SECRET}/a/b.png of {getpass.getuser()} is broken"
                records.ended(config, "failed", Failure(reason=reason, traceback=f"File {SECRET}/x.py"))
            else:
                records.ended(config)
                ledger.write_evaluation(counted(cell, config.key, 10 * number + config.training.seed))
    made = Provenance(
        data_fingerprint="0" * 64,
        image_sizes="84x84",
        git_commit="1" * 40,
        versions={},
        device="a processor",
        threads=1,
        data_doubts=(f"{SECRET}/train: 3 images less",),
    )
    for training in records.trainings.values():
        ledger.write_training(training.replace(provenance=made))
        training.config.write(ledger.folder(training.key) / "config.json")
    return ledger


@pytest.fixture
def file(ledger: Ledger, tmp_path: Path) -> Path:
    write_archive(ledger, ["s"], tmp_path / "a.dmfa")
    return tmp_path / "a.dmfa"


def texts(store: str | Path, output: Path) -> dict[str, bytes]:
    report.main(["--store", str(store), "--output", str(output), *(["--accept-stale"] if Path(store).is_dir() else [])])
    return {path.name: path.read_bytes() for path in sorted((output / "s").iterdir())}


def test_a_report_of_an_archive_has_the_numbers_of_the_store(ledger: Ledger, file: Path, tmp_path: Path) -> None:
    rows = [results.frame(str(store), settings=True).drop(columns="data.root") for store in (ledger.store, file)]
    assert rows[0].equals(rows[1]) and len(rows[0]) == 7
    from_store, from_archive = texts(ledger.store, tmp_path / "1"), texts(file, tmp_path / "2")
    assert from_store.keys() == from_archive.keys()
    one, other = (json.loads(found["table_2d.json"]) for found in (from_store, from_archive))
    for table in (one, other):
        for cell in table["sections"][0]["cells"]:
            cell["doubts"] = cell["data_doubts"] = cell["reasons"] = cell["origins"] = []
        table["notes"] = []
    assert one == other
    assert one["sections"][0]["cells"][1]["classes_ci95"] is not None


def test_no_path_user_or_machine_is_in_it(file: Path) -> None:
    with zipfile.ZipFile(file) as opened:
        text = b"\n".join(opened.read(name) for name in opened.namelist() if name != "answers.bin").decode()
    assert "someone" not in text and "/home" not in text and "x.py" not in text
    assert f" of {getpass.getuser()} is" not in text
    assert ".../b.png" in text and ".../train: 3 images less" in text


def test_images_that_a_model_was_tested_on_are_named_without_their_place(tmp_path: Path) -> None:
    elsewhere = EvaluationConfig.from_dict({"episodes": 10, "data": {"name": "cub", "root": f"{SECRET}/cub"}})
    cell = planned("1", elsewhere, data__name="birds", model__method="proto_net")
    ledger, records = Ledger(tmp_path / "runs"), InMemory()
    ledger.write_plan(SweepPlan(format=2, name="s", about="", cells=(cell,)))
    records.ended(cell.config)
    ledger.write_training(records.trainings[cell.config.key])
    test = counted(cell, cell.config.key, 0).replace(data_doubts=[f"{SECRET}/cub/test: 3 images less"])
    ledger.write_evaluation(test)
    write_archive(ledger, ["s"], tmp_path / "a.dmfa")
    assert SECRET.encode() not in b"".join(Archive(tmp_path / "a.dmfa")._members.values())
    kept = Archive(tmp_path / "a.dmfa").evaluation(cell.config.key, cell.evaluation.key)
    assert kept is not None and kept.config.data is not None and kept.config.data.root is None
    assert (kept.config.key, kept.correct) == (cell.evaluation.key, test.correct)
    assert kept.data_doubts == (".../test: 3 images less",)
    assert import_archive(Archive(tmp_path / "a.dmfa"), ledger).conflicts == ()


def test_the_same_records_make_the_same_file(ledger: Ledger, file: Path, tmp_path: Path) -> None:
    write_archive(ledger, [], tmp_path / "b.dmfa")
    assert (tmp_path / "b.dmfa").read_bytes() == file.read_bytes()


def test_an_import_makes_the_same_store(ledger: Ledger, file: Path, tmp_path: Path) -> None:
    there = Ledger(tmp_path / "other")
    done = import_archive(Archive(file), there)
    assert (done.there, done.conflicts) == (0, ())
    for key in ledger.kept_keys():
        ours, theirs = ledger.training(key), there.training(key)
        assert ours is not None and theirs is not None
        assert theirs.config.key == ours.config.key and theirs.config.data.root is None
        assert theirs.outcome == ours.outcome
        assert there.evaluations(key) == ledger.evaluations(key)
    again = import_archive(Archive(file), there)
    assert (again.added, again.conflicts) == ((), ()) and again.there == len(done.added)
    write_archive(there, ["s"], tmp_path / "c.dmfa")
    assert Archive(tmp_path / "c.dmfa").trainings == Archive(file).trainings
    assert Archive(tmp_path / "c.dmfa").plans() == Archive(file).plans()
    assert (tmp_path / "c.dmfa").read_bytes() == file.read_bytes()


def test_an_import_into_its_own_store_changes_nothing(ledger: Ledger, file: Path) -> None:
    before = {path: path.read_bytes() for path in ledger.store.rglob("*.json")}
    assert import_archive(Archive(file), ledger).added == ()
    assert {path: path.read_bytes() for path in ledger.store.rglob("*.json")} == before


def test_a_conflict_is_named_and_left_as_it_is(
    ledger: Ledger, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ledger.kept_keys()[0]
    record = ledger.training(key)
    assert record is not None
    ledger.write_training(record.replace(seconds=99.0))
    assert archive.main(["import", str(file), "--store", str(ledger.store)]) == 1
    assert f"conflict: trainings/{key}/training.json has other contents" in capsys.readouterr().err
    kept = ledger.training(key)
    assert kept is not None and kept.seconds == 99.0


def other_store(ledger: Ledger, there: Ledger) -> str:
    """Another training of each key, the first of which diverged, without its tests; return the first's key."""
    there.write_plan(ledger.plan("s"))
    keys = [key for key in ledger.kept_keys() if ledger.evaluations(key)]
    for key in keys:
        record = ledger.training(key)
        assert record is not None
        ended = {"outcome": "diverged", "failure": Failure(reason="no")} if key == keys[0] else {"seconds": 99.0}
        there.write_training(record.replace(**ended))
    return keys[0]


def test_no_test_of_another_training_of_a_key_is_imported(ledger: Ledger, file: Path, tmp_path: Path) -> None:
    there = Ledger(tmp_path / "there")
    other_store(ledger, there)
    keys = there.kept_keys()
    done = import_archive(Archive(file), there)
    assert [conflict.path for conflict in done.conflicts] == [f"trainings/{key}/training.json" for key in keys]
    assert not [name for name in done.added for key in keys if key in name]
    assert not any(there.evaluations(key) for key in keys)
    assert {name.split("/")[1] for name in done.added if name.startswith("trainings/")} == set(
        ledger.kept_keys()
    ) - set(keys)


def test_a_conflict_with_a_training_that_did_not_finish_says_how_to_take_the_finished_one(
    ledger: Ledger, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Ledger(tmp_path / "there")
    key = other_store(ledger, there)
    assert archive.main(["import", str(file), "--store", str(there.store)]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "the training diverged there" in line]
    assert len(told) == 1 and key in told[0]
    command = told[0].split("`")[1].split()[2:]
    assert command == ["orchestrator.forget", "training", key, "--store", str(there.store), "--yes"]
    assert forget.main(command[1:]) == 0
    archive.main(["import", str(file), "--store", str(there.store)])
    assert there.evaluations(key) == ledger.evaluations(key)


def test_what_several_machines_trained_is_joined(ledger: Ledger, tmp_path: Path) -> None:
    keys = ledger.kept_keys()
    halves = []
    for number in range(2):
        half = Ledger(tmp_path / f"half{number}")
        shutil.copytree(ledger.store, half.store)
        for key in keys[number::2]:
            shutil.rmtree(half.folder(key))
        write_archive(half, [], tmp_path / f"half{number}.dmfa")
        halves.append(Archive(tmp_path / f"half{number}.dmfa"))
    joined = Ledger(tmp_path / "joined")
    for half in halves:
        assert import_archive(half, joined).conflicts == ()
    assert joined.kept_keys() == keys


def store_with_weights(trainings: Path, where: Path) -> tuple[Ledger, str]:
    """A store with a sweep of one training and its weights, and the training's key."""
    store = Ledger(where)
    record = json.loads((trainings / "ended/training.json").read_text())
    shutil.copytree(trainings / "ended", store.folder(record["key"]))
    training = store.training(record["key"])
    assert training is not None and training.config.kind == "experiment"
    cell = {"table": "2d", "config": training.config, "evaluation": TEN.resolve(training.config)}
    store.write_plan(SweepPlan.from_dict({"format": 2, "name": "s", "about": "", "cells": [plain(cell)]}))
    return store, training.key


def test_weights_travel_where_asked(trainings: Path, tmp_path: Path) -> None:
    store, key = store_with_weights(trainings, tmp_path / "runs")
    assert archive.main(["export", "--store", str(store.store), "-o", str(tmp_path / "w.dmfa"), "--weights"]) == 0
    there = Ledger(tmp_path / "there")
    import_archive(Archive(tmp_path / "w.dmfa"), there)
    name = f"{key}/best.safetensors"
    assert (there.store / "trainings" / name).read_bytes() == (store.store / "trainings" / name).read_bytes()
    (store.folder(key) / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="were not kept; leave out --weights"):
        write_archive(store, [], tmp_path / "x.dmfa", weights=True)
    assert not (tmp_path / "x.dmfa").exists()


def test_one_of_a_thing_is_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = planned("1", TEN, data__name="birds", model__method="proto_net")
    ledger, records = Ledger(tmp_path / "runs"), InMemory()
    ledger.write_plan(SweepPlan(format=2, name="s", about="", cells=(cell,)))
    records.ended(cell.config)
    ledger.write_training(records.trainings[cell.config.key])
    ledger.write_evaluation(counted(cell, cell.config.key, 0))
    assert archive.main(["export", "--store", str(ledger.store), "-o", str(tmp_path / "a.dmfa")]) == 0
    assert archive.main(["show", str(tmp_path / "a.dmfa")]) == 0
    said = capsys.readouterr().out
    assert said.count("1 sweep, 1 training, 1 evaluation,") == 2 and "s: 1 of 1 training; " in said
    status.main(["--store", str(ledger.store), "--accept-stale"])
    assert "s: 1 training: 1 done" in capsys.readouterr().out


def plain(cell: dict[str, object]) -> dict[str, object]:
    return {name: v.model_dump(mode="json") if isinstance(v, Value) else v for name, v in cell.items()}


def rewritten(change: Callable[[dict[str, bytes]], None]) -> Callable[[Path], None]:
    """A damage that changes an archive's members."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as opened:
            members = {name: opened.read(name) for name in opened.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
            for name, data in members.items():
                written.writestr(name, data)

    return damage


def manifest(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | changes).encode()

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is damaged or no archive"),
        (lambda path: path.write_bytes(b""), "is damaged or no archive"),
        (lambda path: path.write_text("no archive"), "is damaged or no archive"),
        (rewritten(lambda members: members.pop("manifest.json")), "it has no manifest.json"),
        (rewritten(lambda members: members.pop("answers.bin")), "its manifest and its contents differ in answers.bin"),
        (
            rewritten(lambda members: members.update({"answers.bin": b"\1" * 250})),
            "answers.bin is not what was written",
        ),
        (rewritten(lambda members: members.update({"../evil": b""})), "holds '../evil', which no archive of dmf has"),
        (rewritten(lambda members: members.update({"x.py": b""})), "holds 'x.py', which no archive of dmf has"),
        (
            rewritten(manifest(format=2)),
            "is an archive of format 2, but this version reads formats up to 1; update dmf",
        ),
        (rewritten(manifest(trainings="many")), "the manifest of"),
    ],
)
def test_a_damaged_or_foreign_archive_is_refused(
    file: Path, damage: Callable[[Path], None], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(file)
    with pytest.raises(ValueError) as error:
        Archive(file)
    assert told in str(error.value) and str(file) in str(error.value)
    assert archive.main(["import", str(file), "--store", str(tmp_path / "new")]) == 2
    assert "archive: " in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("trainings/*"))


def test_a_flipped_byte_anywhere_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 40):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        file.write_bytes(broken)
        try:
            found = Archive(file)
        except ValueError:
            continue
        file.write_bytes(whole)  # the byte was in a date or a comment of the zip, which say nothing
        assert found.manifest == Archive(file).manifest
        assert found.trainings == Archive(file).trainings


def test_a_training_under_anothers_key_is_refused(file: Path) -> None:
    import hashlib

    def swap(members: dict[str, bytes]) -> None:
        lines = members["trainings.jsonl"].splitlines()
        one, other = (json.loads(line) for line in lines[:2])
        one["config"], other["config"] = other["config"], one["config"]
        lines[:2] = [json.dumps(each).encode() for each in (one, other)]
        members["trainings.jsonl"] = b"\n".join(lines) + b"\n"
        sums = json.loads(members["manifest.json"])["sha256"]
        sums["trainings.jsonl"] = hashlib.sha256(members["trainings.jsonl"]).hexdigest()
        manifest(sha256=sums)(members)

    rewritten(swap)(file)
    with pytest.raises(ValueError, match="has the configuration of"):
        _ = Archive(file).trainings


def test_the_command_exports_shows_and_imports(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "all.dmfa")
    assert archive.main(["export", "s", "--store", str(ledger.store), "-o", path]) == 0
    assert "1 sweep, 7 trainings, 6 evaluations" in capsys.readouterr().out
    assert archive.main(["show", path]) == 0
    assert "  s: 7 of 7 trainings; Rows." in capsys.readouterr().out
    assert archive.main(["import", path, "--store", str(tmp_path / "new")]) == 0
    assert "21 files added, 0 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "t", "-o", "x.dmfa"], "no sweep 't'; there are s"),
        (["export", "-o", "x.zip"], "the name of an archive ends in .dmfa"),
        (["show", "nowhere.dmfa"], "nowhere.dmfa"),
    ],
)
def test_a_wrong_command_is_answered(
    ledger: Ledger, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(ledger.store)] if arguments[0] == "export" else []
    assert archive.main([*arguments, *store]) == 2
    assert told in capsys.readouterr().err


def test_a_damaged_record_is_named_and_nothing_is_written(ledger: Ledger, tmp_path: Path) -> None:
    (broken,) = list((ledger.folder(ledger.kept_keys()[0]) / "evaluations").glob("*.json"))[:1] or [None]
    assert broken is not None
    broken.write_text(broken.read_text()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        write_archive(ledger, [], tmp_path / "y.dmfa")
    assert list(tmp_path.glob("*y.dmfa*")) == []


@pytest.mark.parametrize(
    ("member", "changed"),
    [
        ("evaluations.jsonl", {"training_key": "../../../outside", "evaluation_key": "../../evil"}),
        ("trainings.jsonl", {"key": "../../../outside", "format": 1}),
    ],
)
def test_a_record_whose_key_is_a_path_is_refused(
    file: Path, member: str, changed: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    def change(members: dict[str, bytes]) -> None:
        first, *others = members[member].splitlines()
        members[member] = b"\n".join([json.dumps(json.loads(first) | changed).encode(), *others]) + b"\n"
        sums = json.loads(members["manifest.json"])["sha256"]
        manifest(sha256=sums | {member: hashlib.sha256(members[member]).hexdigest()})(members)

    rewritten(change)(file)
    before = sorted(tmp_path.rglob("*"))
    assert archive.main(["import", str(file), "--store", str(tmp_path / "new")]) == 2
    assert "has a record of '../../../outside', which is no key" in capsys.readouterr().err
    added = [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file() and path not in before]
    assert added == ["driver.lock"]


def test_damaged_weights_are_told_in_a_sentence(
    trainings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = store_with_weights(trainings, tmp_path / "runs")
    file = tmp_path / "w.dmfa"
    write_archive(store, [], file, weights=True)
    name, whole = f"weights/{key}.safetensors", file.read_bytes()
    with zipfile.ZipFile(file) as opened:
        start = opened.getinfo(name).header_offset + 30 + len(name)
    broken = bytearray(whole)
    broken[start + 1000] ^= 0x10
    file.write_bytes(broken)
    assert archive.main(["import", str(file), "--store", str(tmp_path / "1")]) == 2
    assert "w.dmfa is damaged" in capsys.readouterr().err
    file.write_bytes(whole)
    rewritten(lambda members: members.pop(name))(file)
    assert archive.main(["import", str(file), "--store", str(tmp_path / "2")]) == 2
    assert f"w.dmfa is damaged in {name}" in capsys.readouterr().err


def test_tests_of_a_model_that_nothing_is_known_of_do_not_travel(ledger: Ledger, tmp_path: Path) -> None:
    """They would become those of another model of that key."""
    key = next(key for key in ledger.kept_keys() if ledger.evaluations(key))
    there = Ledger(tmp_path / "there")
    shutil.copytree(ledger.store, there.store)
    shutil.rmtree(there.folder(key) / "evaluations")
    (ledger.folder(key) / "training.json").unlink()
    write_archive(ledger, [], tmp_path / "a.dmfa")
    found = Archive(tmp_path / "a.dmfa")
    assert not [exam for exam in found.exams if exam[0] == key]
    assert import_archive(found, there).conflicts == () and not there.evaluations(key)


def test_an_ended_training_is_not_added_to_one_that_has_begun(
    ledger: Ledger, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record would stand beside weights of an earlier epoch."""
    key = next(key for key in ledger.kept_keys() if ledger.evaluations(key))
    there = Ledger(tmp_path / "there")
    there.folder(key).mkdir(parents=True)
    (there.folder(key) / "best.safetensors").write_bytes(b"weights of its first epoch")
    assert archive.main(["import", str(file), "--store", str(there.store)]) == 1
    assert f"`python -m orchestrator.forget training {key} --store {there.name} --yes`" in capsys.readouterr().err
    assert there.training(key) is None and not there.evaluations(key)
    assert set(there.kept_keys()) >= set(ledger.kept_keys()) - {key}


def test_looks_that_were_put_aside_stay_where_they_are(ledger: Ledger, tmp_path: Path) -> None:
    (ledger.sweep_folder("s") / "looks-20261121T101010-ab12.json").write_text("{}\n")
    write_archive(ledger, [], tmp_path / "a.dmfa")
    assert list(Archive(tmp_path / "a.dmfa").plans()) == ["s"]


def test_what_a_search_has_tried_is_in_its_archive(tmp_path: Path) -> None:
    given = {"data.name": "glyphs", "data.image_size": 28, "model.backbone": "conv64f"}
    search = {"trials": 1, "parameters": {"model.groups": {"choice": [1, 64]}}}
    spec = spec_from({"name": "look", "set": given, "search": search})
    assert spec.search is not None
    ledger, records, base = Ledger(tmp_path / "runs"), InMemory(), spec.config_for({})
    config = base.with_paths({"model.groups": 64})
    ledger.write_plan(plan(spec))
    records.ended(config)
    ledger.write_training(records.trainings[config.key])
    tried = Tried(values={"model.groups": 64}, key=config.key, accuracy=0.5, epochs=95, outcome="finished")
    parameters = spec.search.parameters.given()
    SearchResults(base=base, parameters=parameters, trials=1, tried=(tried,)).write(results_path(ledger, "look"))
    write_archive(ledger, [], tmp_path / "a.dmfa")
    assert list(Archive(tmp_path / "a.dmfa").trainings) == [config.key]


def test_records_of_a_version_with_fewer_fields_are_the_same(ledger: Ledger, file: Path) -> None:
    key = ledger.kept_keys()[0]
    path = ledger.folder(key) / "training.json"
    record = unchecked(path)
    assert record.pop("start", "none") is None and record.pop("validation", "none") is None
    path.write_text(json.dumps(record))
    assert import_archive(Archive(file), ledger).conflicts == ()


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("/home/Jane Doe/my birds", "ValueError: .../0.png: cannot be decoded; data.root='.../my_birds'"),
        (".", "ValueError: ./train/a/0.png: cannot be decoded; data.root='.'"),
    ],
)
def test_a_path_with_blanks_is_not_in_it(root: str, told: str, tmp_path: Path) -> None:
    cell = planned("1", TEN, data__name="birds", data__root=root, model__method="proto_net")
    ledger, records = Ledger(tmp_path / "runs"), InMemory()
    ledger.write_plan(SweepPlan(format=2, name="s", about="", cells=(cell,)))
    reason = f"ValueError: {root}/train/a/0.png: cannot be decoded; data.root={root!r}"
    records.ended(cell.config, "failed", Failure(reason=reason))
    ledger.write_training(records.trainings[cell.config.key])
    write_archive(ledger, [], tmp_path / "a.dmfa")
    (record,) = Archive(tmp_path / "a.dmfa").trainings.values()
    assert record.failure is not None
    assert record.failure.reason == told


def test_every_method_of_format_1_is_in_its_archive(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs")
    shutil.copytree(Path(__file__).parent / "format_1", ledger.store)
    write_archive(ledger, [], tmp_path / "a.dmfa")
    assert sorted(Archive(tmp_path / "a.dmfa").trainings) == sorted(ledger.kept_keys())


def test_looks_at_other_trainings_than_the_stores_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has trained the same sweep by itself, and took no look before it was killed."""
    planned = plan(spec_from(test_looks.SWEEP))
    there, here = Ledger(tmp_path / "there"), Ledger(tmp_path / "here")
    test_looks.run(planned, there.store)
    there.write_plan(planned)
    write_archive(there, [], tmp_path / "a.dmfa")
    drawn = test_looks.drawn
    monkeypatch.setattr(test_looks, "drawn", lambda cell, seed: 1 - drawn(cell, seed))
    test_looks.Trainer(planned, here)(planned.asked(None).trials())
    here.write_plan(planned)
    for key in here.kept_keys():
        training = here.training(key)
        assert training is not None
        here.write_training(training.replace(seconds=7.0))
    found = Archive(tmp_path / "a.dmfa")
    assert found.looks(planned.name) is not None
    assert import_archive(found, here).conflicts != () and here.looks(planned.name) is None
    import_archive(found, Ledger(tmp_path / "empty"))
    assert Ledger(tmp_path / "empty").looks(planned.name) is not None, "a store without trainings of its own takes them"
