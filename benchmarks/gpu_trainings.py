"""Table 2 of the paper, 1-shot, trained for as long as there is time: part c of `python -m benchmarks.gpu`."""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
import time
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from dmf.config import EvaluationConfig, ExperimentConfig, recipe
from dmf.data.sets import open_for
from dmf.evaluation.evaluate import evaluate_folder
from dmf.machine.device import has_bf16
from dmf.machine.files import write_text
from dmf.records.records import EVALUATIONS, RECORD, TrainingRecord, training_from
from dmf.train import run as train_in
from dmf.training.run import Run

log = logging.getLogger("benchmarks.gpu")

GROUPS = {"cuda": [1, 64, 160, 320, 640], "cpu": [1, 16, 64]}
IMAGES = {"data.name": "tinyimagenet_fs", "data.image_size": 64, "augmentation.crop_padding": 6}
GLYPHS = {
    "data.name": "glyphs",
    "data.image_size": 28,
    "data.normalisation": "half",
    "augmentation.crop_padding": 3,
    "augmentation.flip": False,
}
STEPS = {
    "training.episodes_per_epoch": 400,
    "training.warmup_epochs": 1,
    "training.validation_episodes": 500,
    "training.validate_every": 4,
    "training.validate_all_from": 1000,
}
SMALL = {
    "model.backbone": "conv64f",
    "training.episodes_per_epoch": 4,
    "training.validation_episodes": 4,
    "episodes.queries": 2,
}
EPISODES = {"cuda": 2000, "cpu": 20}
TIMED_STEPS = {"cuda": 20, "cpu": 1}
MOST_EPOCHS = {"cuda": 95, "cpu": 2}
BESIDE = (2, 3, 4)
"""Trainings beside each other that are tried, as long as more are faster."""
FASTER = 1.1
FOR_TESTS = 0.75
"""The part of the time that is planned for steps; the rest is for validation, tests and starts."""
START_SECONDS = 120.0
"""The longest that a process waits for the others to be ready."""


def parts_of(device: str) -> list[dict[str, Any]]:
    """The tables and their rows, as in a sweep file, in the order in which they are trained."""
    return [
        {"table": "2d", "grid": {"model.alignment": [0, 1, 2, 3, "ode"]}},
        {"table": "2a", "grid": {"model.dynamic_sampling": [False, True]}},
        {"table": "2c", "grid": {"model.groups": GROUPS[device]}},
        {"table": "2b", "grid": {"model.last_pooling": [True, False]}},
    ]


def settings_of(device: str, images: str | None, epochs: int, threads: int) -> dict[str, Any]:
    """What all trainings share, as in a sweep file's `set`."""
    found = {**(GLYPHS if images is None else IMAGES | {"data.root": images}), **STEPS, "training.epochs": epochs}
    if device == "cpu":
        return found | SMALL | {"training.device": "cpu", "training.threads": 1}
    bf16 = {"training.precision": "bf16"} if has_bf16(torch.device("cuda")) else {}
    return found | bf16 | {"training.device": "cuda", "training.threads": threads}


def configurations(shared: dict[str, Any], parts: list[dict[str, Any]]) -> list[ExperimentConfig]:
    """Every training of `parts` once."""
    base = recipe("released").with_paths(shared)
    cells = (
        base.with_paths({path: value}) for part in parts for path, values in part["grid"].items() for value in values
    )
    return list({config.key: config for config in cells}.values())


def sweep_file(shared: dict[str, Any], parts: list[dict[str, Any]], episodes: int) -> str:
    """A sweep file that asks for these trainings. JSON is YAML, and needs no package."""
    return json.dumps(
        {
            "name": "gpu_table2",
            "about": "Table 2, 1-shot: the first minutes on a GPU (benchmarks/gpu.py)",
            "base": "released",
            "set": shared,
            "seeds": [0],
            "evaluation": {"episodes": episodes},
            "parts": parts,
        },
        indent=1,
    )


def run(out: Path, device: str, images: str | None, seconds: float, threads: int) -> dict[str, Any]:
    """Train as many epochs of all trainings as fit in `seconds`, and write store and sweep file into `out`.

    If not even two epochs of each fit, the last ones are left out. Trainings that are under way at the end are stopped,
    but not before one has ended, so that there is a record; the sweep file goes on with them.
    """
    end = time.monotonic() + seconds
    parts = parts_of(device)
    configs = configurations(settings_of(device, images, 2, threads), parts)
    open_for(configs[0])  # decodes the images once, before several processes need them
    steps = TIMED_STEPS[device]
    (paces,) = pace([configs], steps)
    beside, speedup = _how_many(configs[0], steps, paces[0])
    per_epoch = configs[0].training.episodes_per_epoch // configs[0].training.episodes_per_step
    left = FOR_TESTS * (end - time.monotonic()) * speedup / per_epoch
    while len(paces) > 1 and 2 * sum(paces) > left:
        paces.pop()
    epochs = max(2, min(MOST_EPOCHS[device], int(left / sum(paces))))
    shared = settings_of(device, images, epochs, threads)
    told = {name: value for name, value in shared.items() if name not in ("training.device", "training.threads")}
    write_text(out / "sweep.yaml", sweep_file(told, parts, EPISODES[device]) + "\n")
    chosen = configurations(shared, parts)[: len(paces)]
    _train(chosen, out / "store" / "trainings", EvaluationConfig(episodes=EPISODES[device]), beside, end)
    return {
        "seconds_per_step": {config.key: found for config, found in zip(chosen, paces, strict=True)},
        "beside_each_other": beside,
        "speedup": speedup,
        "epochs": epochs,
        **_standing(out / "store" / "trainings", chosen),
    }


def _how_many(config: ExperimentConfig, steps: int, alone: float) -> tuple[int, float]:
    """How many trainings beside each other are fastest, and how much faster than one after another."""
    best, speedup = 1, 1.0
    for count in BESIDE:
        found = count * alone / max(each for (each,) in pace([[config]] * count, steps))
        if found < FASTER * speedup:
            break
        best, speedup = count, found
    return best, speedup


def pace(beside: list[list[ExperimentConfig]], steps: int) -> list[list[float]]:
    """Seconds per step of trainings: each list is one process, with one training after another."""
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(len(beside)), context.Queue()
    processes = []
    for configs in beside:
        texts = [config.model_dump_json() for config in configs]
        processes.append(context.Process(target=_pace, args=(texts, steps, ready, found)))
        processes[-1].start()
    return [_answer(found, processes) for _ in beside]


def _answer(found: Queue[list[float]], processes: list[SpawnProcess]) -> list[float]:
    """The next answer. Raises RuntimeError if a process has ended without one."""
    while True:
        if not found.empty():
            return found.get()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process that timed training steps failed; its traceback is above")
        time.sleep(0.02)


def _pace(texts: list[str], steps: int, ready: Any, found: Queue[list[float]]) -> None:
    paces = []
    for text in texts:
        config = training_from(text)
        with tempfile.TemporaryDirectory() as room:
            training = Run(config, open_for(config), Path(room))
            training.train_steps(range(2))  # also chooses kernels
            ready.wait(START_SECONDS)
            started = time.perf_counter()
            training.train_steps(range(2, 2 + steps))
            paces.append((time.perf_counter() - started) / steps)
    found.put(paces)


def _train(
    configs: list[ExperimentConfig], folder: Path, evaluation: EvaluationConfig, beside: int, end: float
) -> None:
    """Train and test each of `configs` in a folder below `folder`, `beside` at a time, until all end or `end` is past.

    The first to end may end later than that.
    """
    context: SpawnContext = multiprocessing.get_context("spawn")
    waiting, running = list(configs), []
    while waiting or running:
        running = [process for process in running if process.is_alive()]
        late = time.monotonic() >= end
        if late and len(waiting) + len(running) < len(configs):
            break
        while waiting and len(running) < (1 if late else beside):
            config = waiting.pop(0)
            arguments = (config.model_dump_json(), folder / config.key, evaluation.model_dump_json())
            running.append(context.Process(target=_trial, args=arguments))
            running[-1].start()
        time.sleep(0.05)
    for process in running:
        process.terminate()
        process.join()


def _trial(text: str, folder: Path, evaluation_text: str) -> None:
    """Train and test one configuration in `folder`; what goes wrong is in its log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "log.txt", level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        config = training_from(text)
        assert isinstance(config, ExperimentConfig)
        train_in(config, folder)
        if TrainingRecord.read(folder / RECORD).outcome == "finished":
            evaluation = EvaluationConfig.from_dict(json.loads(evaluation_text))
            record = evaluate_folder(folder, config, evaluation, open_for(config))
            record.write(folder / EVALUATIONS / f"{record.evaluation_key}.json")
    except Exception:
        log.exception("the trial failed")
        raise


def _standing(folder: Path, configs: list[ExperimentConfig]) -> dict[str, Any]:
    """Which trainings are trained and tested, diverged, failed or only begun."""
    found: dict[str, list[str]] = {}
    for config in configs:
        place = folder / config.key
        if not (place / RECORD).is_file():
            log = place / "log.txt"
            failed = log.is_file() and "Traceback" in log.read_text()
            state = "broken" if failed else "begun" if place.is_dir() else "not begun"
        elif TrainingRecord.read(place / RECORD).outcome != "finished":
            state = "diverged"
        else:
            state = "done" if list(place.glob(f"{EVALUATIONS}/*.json")) else "untested"
        found.setdefault(state, []).append(config.key)
    if "broken" in found:
        raise RuntimeError(f"trainings failed: {', '.join(found['broken'])}; their log.txt says why")
    return found
