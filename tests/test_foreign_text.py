"""Text from records, plans, paths and messages is shown as it is: no terminal, Markdown, LaTeX or browser obeys it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.console import Console

from dmf.records.records import FORMAT, Epoch, Failure, TrainingRecord
from dmf.values import printable
from orchestrator import report, status
from orchestrator.running.progress import Progress
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from orchestrator.sweep import main as sweep
from orchestrator.text import PlainFormatter
from reports.render.latex import to_latex, to_latex_column
from reports.render.markdown import to_markdown
from reports.render.page import to_html
from reports.render.terminal import to_terminal
from tests.filled import table_2c
from tests.test_sweep import SPEC

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m"
BACKWARDS = "\u202egnp.exe"
HOSTILE = f"ValueError: got [/bold] [link=http://x]click[/link] {ESCAPES}{BACKWARDS}\r\x08 <script>alert(1)</script>"
SHOWN = "[/bold] [link=http://x]click[/link]"


def harmless(text: str) -> bool:
    """Whether no character is left that a terminal obeys, besides line breaks; pages have no-break spaces."""
    return all(character.isprintable() or character in "\n\N{NO-BREAK SPACE}" for character in text)


@pytest.fixture
def store(tmp_path: Path) -> Ledger:
    """A sweep with a failed training whose reason and traceback are hostile."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    ledger = Ledger(tmp_path / "runs")
    planned = plan(read_spec(path))
    ledger.write_plan(planned.model_copy(update={"about": HOSTILE}))
    for trial in planned.trials():
        failure = Failure(reason=HOSTILE, traceback=f"Traceback\n  {HOSTILE}\n")
        record = TrainingRecord(format=FORMAT, key=trial.key, config=trial.config, outcome="failed", failure=failure)
        ledger.write_training(record)
    return ledger


def test_status(store: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    key = store.kept_keys()[0]
    (store.store / "trainings" / f"{'[red]'}{ESCAPES}").mkdir()
    for arguments in ([], [key], ["--json"]):
        assert status.main([*arguments, "--store", str(store.store)]) == 1
        said = capsys.readouterr().out
        assert harmless(said), arguments
        assert "click[/link]" in said.replace("\n", "") and "\\u202e" in said.replace("\\\\", "\\")
    assert status.main([f"{ESCAPES}", "--store", str(store.store)]) == 2
    assert harmless(capsys.readouterr().err)


def test_plan_and_sweep(store: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.store.parent)
    assert sweep(["tiny.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert harmless(said) and SHOWN in said
    assert sweep([f"{ESCAPES}.yaml"]) == 2
    said = capsys.readouterr().err
    assert harmless(said) and "owned" in said


def test_reports(store: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--store", str(store.store), "--output", str(tmp_path / "out")]) == 0
    assert harmless(capsys.readouterr().out)
    files = {path.name: path.read_text() for path in (tmp_path / "out" / "tiny").iterdir()}
    assert all(map(harmless, files.values()))
    assert "<script>alert" not in files["index.html"] and "&lt;script&gt;alert" in files["index.html"]
    assert "\\[/bold\\]" in files["table_2c.md"] or "\\[/bold]" in files["table_2c.md"]
    assert "{[}/bold{]}" in files["table_2c.tex"] and r"\textbackslash{}x1b" in files["table_2c.tex"]


def test_tables_of_every_format_show_names_as_they_are() -> None:
    hostile = table_2c().model_copy(update={"title": HOSTILE, "notes": (HOSTILE,), "verdict": HOSTILE})
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - not read
    console.print(to_terminal(hostile, 200))
    texts = [console.export_text(), to_markdown(hostile), to_latex(hostile), to_latex_column(hostile)]
    texts.append(to_html([hostile], HOSTILE, HOSTILE))
    for text in texts:
        assert harmless(text) and "owned" in text
    assert SHOWN in texts[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    console = Console(width=200, record=True, force_terminal=terminal, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = Progress(HOSTILE, console)
    progress.planned("k", HOSTILE, 2)
    progress.started("k")
    progress.epoch("k", Epoch(epoch=1, loss=1.0, losses={}, learning_rate=0.1, seconds=1.0))
    progress.note("k", HOSTILE)
    progress.ended("k", "failed", HOSTILE)
    console.print(progress.table())
    said = console.export_text()
    assert harmless(said) and SHOWN in said


def test_log_messages() -> None:
    record = logging.LogRecord("dmf", logging.WARNING, "", 1, "read %s", (HOSTILE,), None)
    said = PlainFormatter("%(name)s: %(message)s").format(record)
    assert harmless(said) and said.startswith("dmf: read ValueError: got [/bold]")


def test_what_is_harmless_stays() -> None:
    assert printable("Ångström, 漢字, ± − …") == "Ångström, 漢字, ± − …"
    assert printable("two\nlines\t", lines=True) == "two\nlines\\t" and printable("two\nlines") == "two\\nlines"
