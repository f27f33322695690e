"""The first minutes on a GPU, in one command: `python -m benchmarks.gpu --minutes M --out DIR`.

It builds the extension for the cards that are here, then

a. runs the tests that need a GPU, and writes their outcome (DIR/tests.json) before anything else;
b. measures training step, head, evaluation and loader against the literal version, and lists the kernels of one step
   (DIR/measures.json and .md, DIR/kernels.json);
c. trains the paper's Table 2 with ResNet-12 for as long as the minutes last, into a store (DIR/store) beside the sweep
   file that asks for these trainings (DIR/sweep.yaml): `python -m orchestrator.sweep DIR/sweep.yaml --store DIR/store`
   prints the tables.

What fails is noted in DIR/summary.json, and the next part goes on. With --device cpu, all of it runs at a small size.
It needs torch, torchvision, torchdiffeq, numpy, scipy, pydantic, safetensors, pillow, pytest and, for the fonts of the
embedded glyphs, on which the tests train, matplotlib.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import gpu_trainings
from benchmarks.harness import (
    NOWHERE,
    Report,
    Settings,
    alternate,
    copy_rate,
    cores,
    gemm_rate,
    median,
    ratio,
)
from benchmarks.images import NAME, opened, write_images
from benchmarks.literal import LiteralDMF, episode_logits
from benchmarks.steps import (
    IMAGES_PER_EPISODE,
    TASK,
    backbone_step,
    fresh_method,
    head_step,
    random_episodes,
    whole_step,
)
from dmf.backbones import image_flops
from dmf.config import AugmentationConfig, DataConfig, DMFConfig, EvaluationConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet
from dmf.episodes import Episode, EpisodeSampler
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.machine.device import has_bf16, has_tf32, set_up
from dmf.machine.files import write_text
from dmf.methods.base import FewShotMethod
from dmf.training.images import TrainingImages

ROOT = Path(__file__).resolve().parents[1]
REHEARSAL = "DMF_GPU_TESTS_ON"
"""The environment variable that lets tests marked `gpu` run on another device, "cpu"; see tests/conftest.py."""
FOR_TESTS = 0.5
"""The most that the tests take of the minutes that building has left."""
INTERRUPT_SECONDS = 60
"""What a test may take to end when it is interrupted."""
EPISODES = 2000
IMAGES_PER_SECOND, OVER_LITERAL, EVALUATION_SECONDS = 4000, 4, 15
SEARCHED, COMPILED = "cudnn.benchmark", "compiled backbone"
HEAD = {64: 0.05, 640: 0.12}
"""Goals on an H100: images/s of the bf16 step, its speed-up over the literal fp32 step, seconds of EPISODES 1-shot test
episodes of miniImageNet's size, and the head's share of the bf16 step by groups."""


@dataclass(frozen=True)
class Size:
    """How large the measurements are."""

    backbone: str
    side: int
    """Of images, in pixels."""
    groups: tuple[int, ...]
    episodes: int
    """Per training step."""
    sampled: int
    """Test episodes that are timed; six times as many images belong to them, as of miniImageNet's test split to
    EPISODES."""
    rounds: int
    gemm: int
    copy_bytes: int


SIZES = {
    "cuda": Size("resnet12", 84, (64, 640), 4, 500, 20, 8192, 2**31),
    "cpu": Size("conv64f", 84, (16, 64), 1, 20, 1, 128, 2**20),
}


def build(seconds: float, out: Path) -> dict[str, Any]:
    """Build the extension in this checkout, in whatever time that takes up to `seconds`: nothing else says as much."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    with open(out / "build.log", "w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"the extension was not built; {out / 'build.log'} says why")
    return {"built": sorted(path.name for path in (ROOT / "dmf/ops").glob("_C*.so"))}


def tests(seconds: float, out: Path, device: str) -> dict[str, Any]:
    """Run the tests marked `gpu`, on `device`, and count how they ended; after `seconds`, stop before the next one."""
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    report = out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {**os.environ, "DMF_CACHE": str(out / "cache")} | ({REHEARSAL: "cpu"} if device == "cpu" else {})
    with open(out / "tests.log", "w") as log:
        stopped = interrupted([*command, *files], seconds, cwd=ROOT, env=environment, stdout=log, stderr=log)
    if not report.is_file():
        raise RuntimeError(f"pytest has not run; {out / 'tests.log'} says why")
    found = outcomes(report) | {"stopped": stopped}
    write_text(out / "tests.json", json.dumps(found, indent=1) + "\n")
    if found["failed"] or not found["passed"]:
        raise RuntimeError(f"{len(found['failed'])} tests failed and {found['passed']} passed; see {out / 'tests.log'}")
    return found


def interrupted(command: list[str], seconds: float, **settings: Any) -> bool:
    """Run a command, and interrupt it after `seconds`, upon which pytest still writes its report; whether it was."""
    # A shell's background job ignores interrupts, and so would what it starts.
    process = subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **settings
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return True


def outcomes(report: Path) -> dict[str, Any]:
    """How the tests of a JUnit file ended: how many passed, and the names of those that failed or were skipped."""
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": []}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        ends = {end.tag for end in case}
        if ends & {"failure", "error"}:
            found["failed"].append(name)
        elif "skipped" in ends:
            found["skipped"].append(name)
        else:
            found["passed"] += 1
    return found


def measures(out: Path, settings: Settings) -> dict[str, Any]:
    """Measure everything at the device's size, and write the report and the kernels of one step."""
    report, size = Report("gpu", settings), SIZES[settings.device]
    set_up(settings.threads)
    device = torch.device(settings.device)
    rates = _rates(report, size, device)
    with tempfile.TemporaryDirectory() as room:
        _steps(report, size, device, rates)
        per_class = max(20, 6 * size.sampled // 20)
        write_images(Path(room) / "images", {"train": (20, 20), "val": (5, 20), "test": (20, per_class)})
        data = opened(Path(room) / "images", Path(room) / "cache")
        _loader(report, size, device, rates, data)
        _evaluation(report, size, device, rates, data)
    method = fresh_method(device, backbone=size.backbone, groups=size.groups[0])
    precision = _precisions(device)[-1]
    step = whole_step(method, random_episodes(size.episodes, device, size.side), precision)
    write_text(out / "kernels.json", json.dumps(kernels(step, device), indent=1) + "\n")
    write_text(out / "measures.json", json.dumps(report.json(), indent=1) + "\n")
    write_text(out / "measures.md", report.markdown())
    missed = [claim.name for claim in report.claims if not claim.holds]
    return {"goals": len(report.claims), "missed": missed}


def _precisions(device: torch.device) -> list[str]:
    """The precisions that the device has, the fastest last; on a CPU also bf16, to have run it."""
    tf32 = ["tf32"] if has_tf32(device) else []
    return ["fp32", *tf32, *(["bf16"] if device.type == "cpu" or has_bf16(device) else [])]


def _rates(report: Report, size: Size, device: torch.device) -> dict[str, float]:
    """FLOP/s of matrix products by precision, and `copy` in bytes/s."""
    types = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
    rates = {}
    for name in _precisions(device):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        rates[name] = gemm_rate(types[name], device.type, size.gemm)
        report.floor(f"{name} matrix product", rates[name], "FLOP/s", f"{size.gemm} x {size.gemm}")
    torch.set_float32_matmul_precision("highest")
    rates["copy"] = copy_rate(device.type, size.copy_bytes)
    report.floor("memory copy", rates["copy"], "B/s", "read and written")
    return rates


def _steps(report: Report, size: Size, device: torch.device, rates: dict[str, float]) -> None:
    """Training steps on given images: whole, backbone and head, and the literal version's."""
    images, first = random_episodes(size.episodes, device, size.side), size.groups[0]
    literal = LiteralDMF.like(fresh_method(device, backbone=size.backbone, groups=first))
    variants: dict[str, Callable[[], object]] = {"literal fp32": whole_step(literal, images, "fp32")}
    for precision in _precisions(device):
        for groups in size.groups:
            method = fresh_method(device, backbone=size.backbone, groups=groups)
            variants[f"step {precision} G={groups}"] = whole_step(method, images, precision)
            variants[f"head {precision} G={groups}"] = head_step(method, images, precision)
        variants[f"backbone {precision}"] = backbone_step(method, images, precision)
    fastest = _precisions(device)[-1]
    variants |= _tried(report, fresh_method(device, backbone=size.backbone, groups=first), images, fastest)
    times = alternate(variants, size.rounds, warmup=3 if device.type == "cuda" else 1)
    count = size.episodes * IMAGES_PER_EPISODE
    report.times(f"one training step of {size.backbone}, {count} images of {size.side} x {size.side}", times)
    for name in (SEARCHED, COMPILED):
        if name in times:
            report.state(f"step {fastest} G={first}, {name}", ratio(times, f"step {fastest} G={first}", name), "x")
    flops = 3 * count * image_flops(DMFConfig(backbone=size.backbone), 3, size.side)
    parameters = sum(parameter.numel() for parameter in literal.parameters())
    report.floor("optimiser: five passes over the parameters at the copy rate", 20 * parameters / rates["copy"], "s")
    for precision in _precisions(device):
        share = flops / rates[precision] / median(times[f"backbone {precision}"])
        report.state(f"backbone's share of the matrix rate, {precision}", share)
        for groups in size.groups:
            step = median(times[f"step {precision} G={groups}"])
            report.state(f"images/s of the step, {precision}, G={groups}", count / step)
            share = median(times[f"head {precision} G={groups}"]) / step
            report.state(f"share of the head in the step, {precision}, G={groups}", share)
            if device.type == "cuda" and precision == "bf16":
                report.claim(
                    f"share of the head in the bf16 step, G={groups}", share, at_most=HEAD[groups], seen=NOWHERE
                )
    if device.type == "cuda" and "bf16" in rates:
        fast = f"step bf16 G={first}"
        speed = count / median(times[fast])
        report.claim("images/s of the bf16 step", speed, at_least=IMAGES_PER_SECOND, seen=NOWHERE)
        over = ratio(times, "literal fp32", fast)
        report.claim("bf16 step over the literal fp32 step", over, at_least=OVER_LITERAL, unit="x", seen=NOWHERE)


def _tried(report: Report, method: FewShotMethod, images: Episode, precision: str) -> dict[str, Callable[[], object]]:
    """Steps with what training does not use, because nothing has shown that it pays.

    A backbone that cannot be compiled here, such as without Triton or a compiler, is left out with the reason.
    """
    on_gpu = images.query.is_cuda
    step = whole_step(copy.deepcopy(method), images, precision)

    def searched() -> None:
        torch.backends.cudnn.benchmark = True
        try:
            step()
        finally:
            torch.backends.cudnn.benchmark = False

    method.backbone.compile(backend="inductor" if on_gpu else "aot_eager")  # the rehearsal compiles nothing
    compiled = whole_step(method, images, precision)
    try:
        compiled()
    except RuntimeError as error:
        report.state(COMPILED, f"not measured: {' '.join(str(error).split())[:200]}")
        return {SEARCHED: searched}
    return {SEARCHED: searched, COMPILED: compiled}


def _loader(report: Report, size: Size, device: torch.device, rates: dict[str, float], data: DataSet) -> None:
    """Reading and augmenting the images of a step, one after another in one thread."""
    augment = Augmentation(AugmentationConfig(), DataConfig(name=NAME, image_size=size.side), device)
    images = TrainingImages(data.train, augment, 0, device)
    rows = EpisodeSampler(data.train.labels, TASK.way, TASK.shot, TASK.queries, seed=0)(range(size.episodes))
    indices = torch.cat([rows.support.flatten(), rows.query.flatten()])
    drawn = images.read(indices, 0)
    variants: dict[str, Callable[[], object]] = {
        "reading": lambda: images.read(indices, 0),
        "augmentation": lambda: images.augmented(images.read(indices, 0) if device.type == "cpu" else drawn, 0),
    }
    times = alternate(variants, size.rounds)
    report.times(f"{len(indices)} training images", times)
    for name, values in times.items():
        report.state(f"{name}, images/s", len(indices) / median(values))
    floor = len(indices) * 5 * size.side**2 * 3 / rates["copy"]
    report.state("augmentation: share of the copy rate", floor / median(times["augmentation"]))


def _evaluation(report: Report, size: Size, device: torch.device, rates: dict[str, float], data: DataSet) -> None:
    """1-shot test episodes, and one of them by the literal version."""
    augment = Augmentation(AugmentationConfig(), DataConfig(name=NAME, image_size=size.side), device)
    method = fresh_method(device, backbone=size.backbone, groups=size.groups[0]).eval()
    literal = LiteralDMF.like(method).eval()
    bank = episode_bank(data.test, EvaluationConfig(episodes=size.sampled, shot=1))
    variants: dict[str, Callable[[], object]] = {
        precision: lambda precision=precision: episode_accuracies(method, data.test, bank, augment, precision)
        for precision in _precisions(device)
    }
    one = bank[:1]
    variants["one episode, literal"] = lambda: episode_logits(literal, data.test, one, augment, device.type)
    times = alternate(variants, max(1, size.rounds // 4))
    images = len(torch.unique(torch.cat([bank.support.flatten(), bank.query.flatten()])))
    report.times(f"{size.sampled} 1-shot test episodes over {images} images", times)
    flops = images * image_flops(DMFConfig(backbone=size.backbone), 3, size.side)
    for precision in _precisions(device):
        whole = median(times[precision]) * EPISODES / size.sampled
        report.state(f"{EPISODES} test episodes, {precision}, scaled", whole, "s")
        report.state(
            f"evaluation's share of the matrix rate, {precision}", flops / rates[precision] / median(times[precision])
        )
    literal_s = EPISODES * median(times["one episode, literal"])
    report.state(f"{EPISODES} test episodes, literal, scaled", literal_s, "s")
    if device.type == "cuda":
        report.claim(f"{EPISODES} test episodes", whole, at_most=EVALUATION_SECONDS, unit="s", seen=NOWHERE)


def kernels(step: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """What one step runs on its device, the longest first: name, calls, seconds, and share of all seconds."""
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    on = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    events = [event for event in seen.key_averages() if event.device_type == on]
    if device.type == "cuda":
        times = {event.key: event.self_device_time_total for event in events}
    else:
        times = {event.key: event.self_cpu_time_total for event in events}
    whole = sum(times.values())
    rows = [
        {"name": event.key, "calls": event.count, "s": times[event.key] / 1e6, "share": times[event.key] / whole}
        for event in events
    ]
    return sorted(rows, key=lambda row: -row["s"])


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True, help="how long all of it may take")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument(
        "--images", metavar="ROOT", help="folder of tinyimagenet_fs to train on; without it, the embedded glyphs"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads (default: all cores, %(default)s)")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="leave the others out (default: all of them)"
    )
    options = parser.parse_args(argv)
    if not 0 < options.minutes < float("inf"):
        parser.error(f"--minutes {options.minutes}: expected a number above 0")
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: expected at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; --device cpu rehearses everything at a small size")
    return options


PARTS = ("build", "tests", "measures", "trainings")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and write DIR/summary.json after each. Returns 0, 1 if a part failed, or 2 for a user's mistake."""
    options = _options(argv)
    started, seconds = time.monotonic(), 60 * options.minutes
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(short=options.device == "cpu", threads=options.threads, device=options.device)

    def left() -> float:
        return max(0.0, started + seconds - time.monotonic())

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(left(), out),
        "tests": lambda: tests(FOR_TESTS * left(), out, options.device),
        "measures": lambda: measures(out, settings),
        "trainings": lambda: gpu_trainings.run(out, options.device, options.images, left(), options.threads),
    }
    summary: dict[str, Any] = {"minutes": options.minutes, "parts": {}}
    for name in PARTS:
        if name not in options.parts:
            continue
        since = time.monotonic()
        try:
            found = parts[name]()
        except Exception as error:  # the next part may do better, and its minutes are paid
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
        summary["parts"][name] = {**found, "seconds": time.monotonic() - since}
        write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(f"{name}: {json.dumps(summary['parts'][name])}", flush=True)
    return int(any("failed" in part for part in summary["parts"].values() if isinstance(part.get("failed"), str)))


if __name__ == "__main__":
    sys.exit(main())
