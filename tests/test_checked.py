"""Files of a store that decide something carry a checksum: a flipped bit in them is found, not believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmf.config import ExperimentConfig
from dmf.records.records import Epoch, Going
from dmf.values import Checked, Damaged
from orchestrator import archive, report, status
from orchestrator.costs.rates import Calibration, Rates
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import SweepPlan, plan
from orchestrator.store.ledger import IDENTITY, LOOKS, PLAN, Identity, Ledger
from orchestrator.store.searches import SearchResults, Tried, results_of, results_path
from reports.looks import Look, Looks, Question, Rule, TableRule
from reports.owners import FILE, Owner, Written, check_owner
from tests.sites import Site
from tests.tiny import tiny_sweep

CONFIG = ExperimentConfig()
KEY = "0123456789abcdef"
RULE = Rule(
    at_most=3,
    tables=(
        TableRule(
            table="2c",
            margin=0.005,
            questions=(Question(row="a/b", baseline="c/d", said="groups 4"),),
            levels=(0.01, 0.02),
        ),
    ),
)
PLANNED = plan(spec_from({"name": "s", "parts": [{"table": "2c", "grid": {"model.groups": [1, 64]}}]}))
FILES: dict[str, Checked] = {
    PLAN: PLANNED.with_cells(PLANNED.cells[:1]),
    LOOKS: Looks(rule=RULE, taken=(Look(answers=()),)),
    "search.json": SearchResults(
        base=CONFIG,
        parameters={"model.groups": {"choice": [1, 64]}},
        tried=(Tried(values={"model.groups": 1}, key=KEY, accuracy=0.5, epochs=3, outcome="finished"),),
        trials=4,
    ),
    "calibration.json": Calibration(
        measured=(
            Rates(
                cost_class=KEY,
                device="cpu",
                threads=1,
                config=CONFIG,
                episode_seconds=(0.1,),
                image_seconds=0.01,
                test_episode_seconds=0.02,
                start_seconds=3.0,
            ),
        )
    ),
    FILE: Written(owner=Owner(name="/a/store", id=KEY), folder="/results/s", files=("table_2c.md",)),
    IDENTITY: Identity(id=KEY, path="/a/store"),
    "going.json": Going(
        key=KEY,
        threads=1,
        data="d" * 64,
        seconds=2.0,
        history=(Epoch(epoch=1, loss=1.5, losses={}, learning_rate=0.1, seconds=2.0),),
        code=KEY,
    ),
}
BITS_EACH = 400
"""Bits of each file that are flipped, one at a time: all of a short one, every so many of a long one."""


@pytest.mark.parametrize("name", FILES)
def test_every_bit_is_covered_and_a_file_without_a_checksum_is_read(name: str, tmp_path: Path) -> None:
    value, path = FILES[name], tmp_path / name
    value.write(path)
    written = path.read_bytes()
    assert type(value).read(path) == value
    bits = 8 * len(written)
    for bit in {*range(0, bits, max(1, bits // BITS_EACH)), *range(bits - 800, bits)}:
        data = bytearray(written)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(Damaged, match=name):
            type(value).read(path)
    path.write_text(value.model_dump_json(indent=1) + "\n")  # as earlier versions wrote it
    assert type(value).read(path) == value


def changed(path: Path, old: str, new: str) -> bytes:
    """Change some characters of a file so that its content stays valid; returns what it was."""
    before = path.read_bytes()
    assert len(old) == len(new) and before.count(old.encode()) >= 1
    path.write_bytes(before.replace(old.encode(), new.encode(), 1))
    return before


TABLE = "  - {table: 2c, set: {model.method: raw_pixels}}\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A finished sweep that trains nothing."""
    site = Site(tmp_path, tiny_sweep("tiny", "no training takes time", TABLE, epochs=1))
    assert site.run() == 0, site.said
    return site


def test_a_plan_in_which_a_setting_changed_is_left_out_and_written_again(
    site: Site, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = site.ledger.sweep_folder("tiny") / PLAN
    before = changed(path, '"image_size": 28', '"image_size": 29')
    assert status.main(["--store", str(site.ledger.store)]) == 2
    assert "no sweep was started" in capsys.readouterr().err and f"{path} is damaged" in caplog.text
    assert site.run() == 0, site.said
    assert path.read_bytes() == before


def test_an_accuracy_that_changed_in_a_search_is_not_believed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    path = results_path(ledger, "s")
    FILES["search.json"].write(path)
    before = changed(path, '"accuracy": 0.5', '"accuracy": 0.9')
    with pytest.raises(Damaged, match="is damaged: its content is not what was written"):
        results_of(ledger, "s")
    path.write_bytes(before)
    found = results_of(ledger, "s")
    assert found and found.best and found.best.accuracy == 0.5


def test_an_owner_that_changed_lets_nobody_overwrite_tables(site: Site) -> None:
    folder = site.folder / "results" / "tiny"
    before = changed(folder / FILE, "/runs", "/ruin")
    tables = {path: path.read_bytes() for path in folder.glob("table_*")}
    assert site.run() == 2 and f"results/tiny/{FILE} is damaged" in site.said
    assert {path: path.read_bytes() for path in folder.glob("table_*")} == tables
    (folder / FILE).write_bytes(before)
    assert site.run() == 0, site.said


def test_an_identity_that_changed_is_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    known = site.ledger.id
    path = site.ledger.store / IDENTITY
    changed(path, known, known[:-1] + ("0" if known[-1] != "0" else "1"))
    assert Ledger(site.ledger.store).id not in (known, Identity.model_validate({"id": known, "path": "/"}).id)
    assert "the store gets a new identity" in caplog.text
    check_owner(site.folder / "results" / "tiny", Ledger(site.ledger.store).owner)


def test_archives_hold_plain_values_and_an_import_checks_them_again(site: Site, tmp_path: Path) -> None:
    file, there = tmp_path / "tiny.dmfa", tmp_path / "imported"
    assert archive.main(["export", "tiny", "-o", str(file), "--store", str(site.ledger.store)]) == 0
    assert archive.main(["import", str(file), "--store", str(there)]) == 0
    path = Ledger(there).sweep_folder("tiny") / PLAN
    read = SweepPlan.read(path)
    assert read.trials()[0].key == site.trials()[0].key and '"sha256"' in path.read_text()
    changed(path, '"image_size": 28', '"image_size": 29')
    with pytest.raises(Damaged, match=PLAN):
        SweepPlan.read(path)
    path.unlink()
    assert archive.main(["import", str(file), "--store", str(there)]) == 0 and SweepPlan.read(path) == read
    assert archive.main(["import", str(file), "--store", str(there)]) == 0, "the second time all of it is there"


def test_a_copy_in_mlflow_in_which_a_number_changed_is_damaged(site: Site) -> None:
    (path,) = site.ledger.store.rglob("artifacts/**/evaluations/*.json")
    told = json.loads(path.read_text())["accuracy"]
    (site.ledger.store / "mlflow.db").rename(site.folder / "mlflow.db")  # so that no store lies beside it
    command = ["--tracking-uri", f"sqlite:///{site.folder}/mlflow.db", "--output", str(site.folder / "out")]

    def state() -> str:
        assert report.main(command) == 0
        (section,) = json.loads((site.folder / "out" / "tiny" / "table_2c.json").read_text())["sections"]
        return next(cell["state"] for cell in section["cells"] if cell["state"] != "not planned")

    assert state() == "done"
    shown = f'"accuracy": {told}'
    changed(path, shown, shown[:-1] + ("1" if shown[-1] != "1" else "2"))
    assert state() == "damaged"
