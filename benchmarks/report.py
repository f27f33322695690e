"""How long reports on many runs take: `python -m orchestrator.report` on sweeps/table2.yaml with many seeds.

The whole command is timed, in a fresh process each time, with records from MLflow (a SQLite database and its folder of
artifacts) and from the ledger; so is `python -m orchestrator.status` on the same store. Records are as large as real
ones: 95 epochs, 2,000 test episodes with the right answers for each of their classes. From the ledger, both commands
read its index (`orchestrator.store.index`), which a sweep fills as its trainings end. The benchmark also states how
long the first command takes that has to make it.

`WRITTEN` runs are written by the sweep's own code through MLflow's interface. The others are copies of their rows in
the database, with their own ids, keys, seeds and files: through the interface, a run of 95 epochs takes about 0.1 s, so
10,000 runs would take longer than everything else here.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import AVX512, Report, alternate, main, median
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.evaluation.evaluate import mean_and_ci95
from dmf.records.provenance import code_hash
from dmf.records.records import (
    CONFIG,
    EVALUATIONS,
    FORMAT,
    RECORD,
    Epoch,
    EvaluationRecord,
    Provenance,
    TrainingRecord,
)
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import Trial, labels, plan
from orchestrator.store.index import FILE
from orchestrator.store.ledger import Ledger
from reports.owners import FILE as OWNER

SIZES = {1_000: 5.0, 10_000: 15.0}
"""Number of runs in MLflow -> most CPU seconds that the command can take, which has one thread."""
SHORT_SIZES = {1_000: 5.0}
AT_MOST = {"report": 5.0, "status": 2.0}
"""Most CPU seconds that a command can take from the ledger, whatever the number of runs. A report draws its figures."""
WRITTEN = 44
"""Number of runs written through MLflow's interface: two seeds of table2."""
COPIED = ("params", "tags", "metrics", "latest_metrics")
"""MLflow's tables with the data of runs, all with a column `run_uuid`."""
CLASSES = 20
"""Of the test split, as miniImageNet has."""
ROOT = Path(__file__).resolve().parents[1]


def run(report: Report) -> None:
    """Seconds of `python -m orchestrator.report` over 1,000 and 10,000 MLflow runs."""
    rows = []
    for runs, at_most in (SHORT_SIZES if report.settings.short else SIZES).items():
        with TemporaryDirectory(prefix="bench-") as place:
            room = Path(place)
            uri, count = make(room, runs)
            report.say(f"made {count:,} runs, {WRITTEN} of them through MLflow's interface")
            sources = {"MLflow": ["--tracking-uri", uri], "ledger": ["--store", str(room / "runs")]}
            variants = {name: command(place, source, room / name) for name, source in sources.items()}
            first = seconds_of(variants["ledger"])
            report.state(f"first report over {count:,} trainings, which makes the index", first, "s", "once")
            report.state("size of the index", (room / "runs" / FILE).stat().st_size / 2**20, "MiB")
            variants["status"] = status_command(place, room)
            times, cpu = alternate_commands(variants, report.settings.repeats)
            check_equal(room / "MLflow", room / "ledger")
            report.times(f"report over {count:,} trainings", times)
            report.times("the same, CPU seconds of one process", cpu)
            report.claim(
                f"report over {runs:,} MLflow runs (SQLite)",
                median(cpu["MLflow"]),
                at_most=at_most,
                unit=" CPU-s",
                note=f"{count:,} runs, imports included",
                seen=AVX512,
            )
            for what, name in (("report", "ledger"), ("status", "status")):
                report.claim(
                    f"{what} over {runs:,} trainings of the ledger",
                    median(cpu[name]),
                    at_most=AT_MOST[what],
                    unit=" CPU-s",
                    note="imports included",
                    seen=AVX512,
                )
            rows += [{"runs": count, "source": name, **stages(source, room)} for name, source in sources.items()]
    report.table("where the time goes, CPU seconds (another run of each, in stages)", rows)


def command(place: str, source: list[str], output: Path) -> Callable[[], None]:
    """A function that runs the report command as users do."""

    def call() -> None:
        line = [sys.executable, "-m", "orchestrator.report", "table2", *source, "--output", str(output)]
        subprocess.run(line, cwd=place, env=environment(), stdout=subprocess.DEVNULL, check=True)

    return call


def status_command(place: str, room: Path) -> Callable[[], None]:
    """A function that runs the status command as users do; it fails unless every training is done."""

    def call() -> None:
        line = [sys.executable, "-m", "orchestrator.status", "--store", str(room / "runs")]
        subprocess.run(line, cwd=place, env=environment(), stdout=subprocess.DEVNULL, check=True)

    return call


def alternate_commands(
    variants: Mapping[str, Callable[[], None]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and CPU seconds of each command, which run in turn; other work on the machine stretches the former."""
    cpu: dict[str, list[float]] = {name: [] for name in variants}

    def counted(name: str, call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            call()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

        return run

    times = alternate({name: counted(name, call) for name, call in variants.items()}, repeats, warmup=0)
    return times, cpu


def seconds_of(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def check_equal(one: Path, other: Path) -> None:
    """Raise RuntimeError unless both sources give the same tables, byte for byte; only their owners differ."""
    paths = sorted(path.relative_to(one) for path in one.rglob("*.*") if path.name != OWNER)
    assert paths, f"{one} holds no tables"
    for path in paths:
        if (one / path).read_bytes() != (other / path).read_bytes():
            raise RuntimeError(f"{one / path} and {other / path} differ; expected equal tables from MLflow and ledger")


STAGES = """
import json, sys, time
marks = [("", time.process_time())]
def mark(name): marks.append((name, time.process_time()))
from orchestrator import report
options = report._parser().parse_args(sys.argv[1:])
mark("imports")
records, runs, _ = report._records(options)
plan = records.plans()["table2"]
mark("runs and plan")
tables, claims = report.filled(plan, records)
mark("records and statistics")
for table in tables:
    for _, write in report.FORMATS.values():
        write(table)
mark("rendering")
page = report.Page(tables, records.curves, runs)
for number in range(len(tables)):
    page.of(number)
page.of_all("table2", "", report.render_claims.for_page(claims))
mark("pages")
print(json.dumps({name: end - start for (_, start), (name, end) in zip(marks, marks[1:])}))
"""


def stages(source: list[str], room: Path) -> dict[str, float]:
    """CPU seconds that each stage of a report takes."""
    line = [sys.executable, "-c", STAGES, "table2", *source, "--output", str(room / "stages")]
    done = subprocess.run(line, cwd=room, env=environment(), stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def make(room: Path, runs: int) -> tuple[str, int]:
    """Make a store and a database with at least `runs` evaluated trainings of table2; returns URI and number."""
    from orchestrator.tracking.runs import SweepRuns
    from orchestrator.tracking.server import connect, tracking_uri

    file = ROOT / "sweeps" / "table2.yaml"
    one_seed = len(plan(read_spec(file, ("data.root=/images", "seeds=[0]"))).trials())
    seeds = list(range(-(-runs // one_seed)))
    planned = plan(read_spec(file, ("data.root=/images", f"seeds={seeds}")))
    trials = planned.trials()
    ledger = Ledger(room / "runs")
    ledger.write_plan(planned)
    for trial in trials:
        write_files(trial, ledger.folder(trial.key))
    uri = tracking_uri(ledger.store, None)
    sweep = SweepRuns(*connect(uri, ledger.store / "artifacts"), ledger, planned)
    sweep.open()
    names = labels(trial.config for trial in trials)
    patterns: dict[str, str] = {}
    by_seed = sorted(trials, key=lambda trial: trial.config.training.seed)
    for trial in by_seed[:WRITTEN]:
        sweep.mirror(trial.config, trial.evaluations, names[trial.key])
        patterns.setdefault(trial.config.replace(training__seed=0).key, sweep.children[trial.key].id)
    sweep.close("FINISHED")
    copy_runs(ledger, by_seed[WRITTEN:], patterns, names)
    return uri, len(trials)


def write_files(trial: Trial, folder: Path) -> None:
    """Write the files of a training's folder, without waiting for the disk as a sweep does."""
    random = np.random.default_rng(int(trial.key, 16))
    (test,) = trial.evaluations
    training, evaluation = training_record(trial.config, random), evaluation_record(trial.config, test, random)
    (folder / EVALUATIONS).mkdir(parents=True)
    (folder / CONFIG).write_text(trial.config.model_dump_json(indent=1))
    (folder / RECORD).write_text(training.model_dump_json(indent=1))
    (folder / EVALUATIONS / f"{test.key}.json").write_text(evaluation.model_dump_json(indent=1))


def training_record(config: ExperimentConfig, random: np.random.Generator) -> TrainingRecord:
    epochs = range(1, config.training.epochs + 1)
    losses = random.random((len(epochs), 3))
    history = tuple(
        Epoch(
            epoch=number,
            loss=float(loss[0]),
            losses={"few_shot": float(loss[1]), "global": float(loss[2])},
            learning_rate=0.1,
            validation_accuracy=0.6,
            seconds=300.0,
        )
        for number, loss in zip(epochs, losses, strict=True)
    )
    return TrainingRecord(
        format=FORMAT,
        key=config.key,
        config=config,
        outcome="finished",
        history=history,
        best_epoch=len(epochs),
        best_validation_accuracy=0.6,
        parameters=12_000_000,
        seconds=300.0 * len(epochs),
        provenance=Provenance(
            data_fingerprint="0" * 64,
            image_sizes="84x84",
            git_commit="0" * 40,
            versions={},
            device="cpu",
            threads=1,
            code=code_hash(config, "cpu"),
        ),
    )


def evaluation_record(
    config: ExperimentConfig, test: EvaluationConfig, random: np.random.Generator
) -> EvaluationRecord:
    hardness = np.random.default_rng(test.seed).normal(0, 0.08, test.episodes)
    chances = 0.65 + hardness[:, None] + random.normal(0, 0.1, (test.episodes, test.way))
    correct = np.clip(np.round(test.queries * chances), 0, test.queries).astype(int)
    accuracy, ci95 = mean_and_ci95(correct.sum(axis=1) / (test.way * test.queries))
    return EvaluationRecord(
        format=FORMAT,
        training_key=config.key,
        evaluation_key=test.key,
        config=test,
        accuracy=accuracy,
        ci95=ci95,
        correct=tuple(map(tuple, correct.tolist())),
        classes=CLASSES,
        bank=f"bank of {test.shot}",
        data_fingerprint="0" * 64,
        epoch=config.training.epochs,
        seconds=100.0,
        code=code_hash(config, "cpu"),
    )


def copy_runs(ledger: Ledger, trials: list[Trial], patterns: dict[str, str], names: dict[str, str]) -> None:
    """Add runs of `trials` by copying the run of another seed (`patterns`: key of seed 0 -> run).

    Their files are links to the ledger's, which have the same content.
    """
    with sqlite3.connect(ledger.store / "mlflow.db") as database:
        columns = {
            table: [row[1] for row in database.execute(f"pragma table_info({table})")] for table in ("runs", *COPIED)
        }
        for trial in trials:
            pattern, run = patterns[trial.config.replace(training__seed=0).key], uuid.uuid4().hex
            for table, names_of in columns.items():
                given = {"run_uuid": ":run", "artifact_uri": "replace(artifact_uri, run_uuid, :run)"}
                chosen = ", ".join(given.get(name, name) for name in names_of)
                copied = f"select {chosen} from {table} where run_uuid = :pattern"
                values = {"run": run, "pattern": pattern}
                database.execute(f"insert into {table} ({', '.join(names_of)}) {copied}", values)
            database.execute("update runs set name = ? where run_uuid = ?", (names[trial.key], run))
            set_value = "update {} set value = ? where run_uuid = ? and key = ?"
            for table, key, value in (
                ("tags", "dmf.key", trial.key),
                ("tags", "mlflow.runName", names[trial.key]),
                ("params", "training.seed", str(trial.config.training.seed)),
            ):
                database.execute(set_value.format(table), (value, run, key))
            copy = ledger.store / "artifacts" / run / "artifacts"
            shutil.copytree(ledger.folder(trial.key), copy, copy_function=os.link)


if __name__ == "__main__":
    sys.exit(main("report", run))
