"""Tables belong to the store that they come from: another one's are never overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator import archive, report, results, status, sweep
from orchestrator.store.index import FILE as INDEX
from orchestrator.store.ledger import IDENTITY, Ledger
from reports.owners import FILE, Owner, check_owner
from tests.sites import Site
from tests.tiny import tiny_sweep

TABLE = "  - {table: '%s', set: {model.method: raw_pixels}}\n"
SPEC = tiny_sweep("tiny", "no training takes time", TABLE % "2c" + TABLE % "1", epochs=1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("swept"), SPEC)
    assert site.run() == 0, site.said
    return site


@pytest.fixture
def site(swept: Site, tmp_path: Path) -> Site:
    shutil.copytree(swept.folder, tmp_path / "site")
    copy = Site(tmp_path / "site", SPEC, with_database=False)
    assert copy.run() == 0, copy.said
    return copy


def contents(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (site.folder / "results" / "tiny").iterdir()}


def test_another_store_does_not_overwrite_them(site: Site) -> None:
    before = contents(site)
    assert site.run("--store", "other") == 2
    ours, theirs = site.folder / "runs", site.folder / "other"
    assert f"results/tiny has the tables of {ours}, and these are of {theirs}; write them to another " in site.said
    assert site.said.count("\n") == 1 or "MLflow" not in site.said.splitlines()[-1]
    assert contents(site) == before and not (theirs / "trainings").exists()
    assert site.run("--store", "other", "--results", "other/results") == 0, site.said
    assert contents(site) == before and (theirs / "results" / "tiny" / "table_2c.md").is_file()


def test_nor_do_a_copy_and_an_archive(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.folder)
    before = contents(site)
    shutil.copytree("runs", "copy")
    assert archive.main(["export", "tiny", "-o", "tiny.dmfa"]) == 0
    for source in ("copy", "tiny.dmfa"):
        assert report.main(["--store", source]) == 2
        assert (
            f"has the tables of {site.folder / 'runs'}, and these are of {site.folder / source}"
            in capsys.readouterr().err
        )
        assert report.main(["--store", source, "--output", f"of_{source}"]) == 0
    assert contents(site) == before and report.main([]) == 0 and contents(site) == before


def test_a_copy_of_a_folder_with_store_and_tables_has_tables_of_its_own(site: Site) -> None:
    before = contents(site)
    shutil.copytree(site.folder, site.folder.parent / "copy")
    copy = Site(site.folder.parent / "copy", SPEC, with_database=False)
    for _ in range(2):  # at the first start it is not yet known as a copy
        assert copy.run() == 0, copy.said
    assert copy.run("--results", str(site.folder / "results")) == 2
    assert f"has the tables of {site.folder / 'runs'}, and these are of {copy.folder / 'runs'}" in copy.said
    assert contents(site) == before


def test_a_store_that_is_moved_or_made_anew_keeps_its_tables(site: Site) -> None:
    (site.folder / "runs").rename(site.folder / "moved")
    assert site.run("--store", "moved") == 0, site.said
    moved, anew = Ledger(site.folder / "moved").owner, Owner(name=str(site.folder / "moved"), id="another")
    check_owner(site.folder / "results" / "tiny", anew)
    with pytest.raises(ValueError, match=f"has the tables of {moved.name}, and these are of /other"):
        check_owner(site.folder / "results" / "tiny", Owner(name="/other", id="another"))
    (site.folder / "results" / "tiny" / FILE).write_text("{")
    assert site.run("--store", "moved") == 2 and "if they may be overwritten, remove it" in site.said


def test_tables_that_the_file_no_longer_has_go_and_other_files_stay(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.folder)
    (site.folder / "results" / "tiny" / "table_9.md").write_text("mine")
    assert {"table_1.md", "table_1.column.tex", "table_2c.html", "table_9.md"} <= contents(site).keys()
    assert report.main(["--table", "2c", "--formats", "csv"]) == 0
    assert {"table_1.md", "table_1.html", "claims.md"} <= contents(site).keys()
    site.spec.write_text(SPEC.replace(TABLE % "1", ""))
    assert site.run() == 0, site.said
    left = contents(site).keys()
    assert {"table_2c.md", "table_2c.html", "index.html", "table_9.md"} <= left
    assert not [name for name in left if name.startswith("table_1")]


def test_a_comparison_of_other_stores_is_not_overwritten(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.folder)
    shutil.copytree("runs", "copy")
    assert archive.main(["export", "tiny", "-o", "tiny.dmfa"]) == 0
    folder = site.folder / "results" / "diff" / "tiny"
    assert report.main(["--diff", "runs", "copy"]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"table_1.md", "table_2c.csv", FILE} <= before.keys()
    for one, other in (("copy", "runs"), ("runs", "tiny.dmfa")):
        capsys.readouterr()
        assert report.main(["--diff", one, other]) == 2
        said = capsys.readouterr().err
        assert f"has the tables of {site.folder / 'runs'} against {site.folder / 'copy'}, and these are of " in said
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert report.main(["--diff", "runs", "copy", "--table", "1"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == before.keys()


READING = {
    "report": lambda store: report.main(["--store", store, "--output", "out"]),
    "status": lambda store: status.main(["--store", store]),
    "--plan": lambda store: sweep.main(["tiny.yaml", "--store", store, "--plan"]),
    "export": lambda store: archive.main(["export", "tiny", "-o", "out.dmfa", "--store", store]),
    "frame": lambda store: int(results.frame(store).empty),
}


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("what", ["a copy", "a store that was moved", "a store of an earlier version"])
def test_what_reads_writes_nothing_but_the_index(
    command: str, what: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.folder)
    if what == "a copy":
        shutil.copytree("runs", "there")
    else:
        (site.folder / "runs").rename("there")
    if what == "a store of an earlier version":
        (site.folder / "there" / IDENTITY).write_text("0123456789abcdef")
    there = site.folder / "there"

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in there.rglob("*") if path.is_file() and path.name != INDEX}

    before = files()
    assert READING[command]("there") == 0
    assert files() == before
