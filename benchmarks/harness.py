"""Shared by all benchmarks: alternating runs, peak memory, the machine's rates, claims and the report.

A benchmark is a function that measures and fills a `Report`:

    def run(report: Report) -> None:
        times = alternate({"literal": slow, "ours": fast}, report.settings.repeats)
        report.times("doing it", times)
        report.claim("doing it, ours over literal", ratio(times, "literal", "ours"), at_least=3)

    if __name__ == "__main__":
        sys.exit(main("subject", run))

All numbers are in base units (seconds, bytes, FLOP per second) until they are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dmf.machine.device import device_name, has_bf16, set_up
from dmf.machine.files import write_text
from dmf.records.provenance import git_commit, versions

REPEATS, SHORT_REPEATS, GPU_REPEATS = 5, 3, 20
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices that measure the machine's rate: larger than caches, and done in a second or less."""
COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
BUSY = 0.5
"""Load average above which a benchmark warns that other work is running."""
MATRIX_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
"""Flags in /proc/cpuinfo for the instructions that matter for matrix products."""
AVX512, AVX2, ANY, NOWHERE = "AVX-512 with bfloat16", "AVX2", "any", "none yet"
"""Classes of machines on which a claim was seen to hold: `ANY` if it depends on no machine."""
NO_BF16 = "this machine has no bfloat16"
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Claim:
    """A measured number and its bound."""

    name: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    note: str = ""
    seen: str = ANY
    """The classes of machines on which it was seen to hold."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"claim {self.name!r} needs exactly one bound, at_least or at_most")

    @property
    def holds(self) -> bool:
        """Whether the number meets the bound; it can be equal to it."""
        return self.measured >= self.at_least if self.at_least is not None else self.measured <= self.at_most

    @property
    def bound(self) -> str:
        return f"at least {number(self.at_least)}" if self.at_least is not None else f"at most {number(self.at_most)}"

    @property
    def verdict(self) -> str:
        return "holds" if self.holds else "MISSED"

    def json(self) -> dict[str, Any]:
        """As in the report's `claims`, with unit and note only if there are any."""
        bound = {"at_least": self.at_least} if self.at_least is not None else {"at_most": self.at_most}
        more = {key: value for key, value in (("unit", self.unit), ("note", self.note)) if value}
        return {"name": self.name, "measured": self.measured, **bound, "holds": self.holds, "seen": self.seen, **more}


@dataclass(frozen=True)
class Settings:
    """How to run a benchmark."""

    short: bool = False
    """Whether to run fewer and smaller cases, as a check and not for quotable numbers."""
    threads: int = 1
    device: str = "cpu"

    @property
    def repeats(self) -> int:
        """Number of timed rounds; more on a GPU, where calls are short."""
        if self.short:
            return SHORT_REPEATS
        return GPU_REPEATS if self.device == "cuda" else REPEATS


class Report:
    """The results of one benchmark."""

    def __init__(self, subject: str, settings: Settings = Settings()) -> None:
        self.subject, self.settings = subject, settings
        self.machine = machine(settings)
        self.claims: list[Claim] = []
        self.not_applicable: dict[str, str] = {}
        self.stated: dict[str, dict[str, Any]] = {}
        self.floors: dict[str, dict[str, Any]] = {}
        self.tables: list[tuple[str, list[dict[str, Any]]]] = []
        self._started = time.perf_counter()
        if self.machine["load before"] > BUSY:
            self.say(f"other work is running here (load {number(self.machine['load before'])}); times will be too long")

    def claim(
        self,
        name: str,
        measured: float,
        at_least: float | None = None,
        at_most: float | None = None,
        unit: str = "",
        note: str = "",
        seen: str = ANY,
    ) -> Claim:
        """Compare a number with a bound, which was `seen` to hold on those classes of machines."""
        claim = Claim(name, float(measured), at_least, at_most, unit, note, seen)
        self.claims.append(claim)
        self.say(f"{name}: {number(claim.measured)}{unit}, {claim.bound}: {claim.verdict}")
        return claim

    def skip(self, name: str, why: str) -> None:
        """Report a claim that says nothing about this machine, which was therefore not measured."""
        self.not_applicable[name] = why
        self.say(f"{name}: not applicable here, {why}")

    def state(self, name: str, measured: float | str, unit: str = "", note: str = "") -> None:
        """Report a number that has no bound."""
        self.stated[name] = _figure(measured, unit, note)
        self.say(f"{name}: {quantity(measured, unit)}")

    def floor(self, name: str, measured: float, unit: str, note: str = "") -> None:
        """Report what the machine can do, or the least that the work can cost on it."""
        self.floors[name] = _figure(measured, unit, note)
        self.say(f"{name}: {quantity(measured, unit)}")

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Report rows of plain values, printed in columns."""
        self.tables.append((title, rows))

    def times(self, title: str, times: Mapping[str, Sequence[float]]) -> None:
        """Report a table of the times that `alternate` returned."""
        self.table(title, [{"variant": name, **spread(values)} for name, values in times.items()])
        self.say(f"{title}: " + ", ".join(f"{name} {number(median(values))} s" for name, values in times.items()))

    def say(self, text: str) -> None:
        """Print progress on stderr."""
        print(f"[{self.subject} {time.perf_counter() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    def json(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return {
            "subject": self.subject,
            "machine": self.machine,
            "short": self.settings.short,
            "device": self.settings.device,
            "threads": self.settings.threads,
            "repeats": self.settings.repeats,
            "claims": [claim.json() for claim in self.claims],
            "not applicable": self.not_applicable,
            "stated": self.stated,
            "floors": self.floors,
            "tables": [{"title": title, "rows": rows} for title, rows in self.tables],
            "seconds": time.perf_counter() - self._started,
        }

    def markdown(self) -> str:
        """The whole report as Markdown."""
        settings = self.settings
        lines = [f"# {self.subject}" + (" (short)" if settings.short else ""), ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        for title, rows in self.tables:
            lines += ["", f"## {title}", "", *aligned(rows)]
        for title, figures in (("Floors", self.floors), ("Stated", self.stated)):
            if figures:
                rows = [
                    {"what": name, "measured": quantity(figure["measured"], figure.get("unit", ""))}
                    | {"note": figure.get("note", "")}
                    for name, figure in figures.items()
                ]
                lines += ["", f"## {title}", "", *aligned(rows)]
        if self.claims or self.not_applicable:
            rows = [
                {
                    "claim": claim.name,
                    "measured": number(claim.measured) + claim.unit,
                    "bound": claim.bound,
                    "": claim.verdict,
                    "seen on": claim.seen,
                    "note": claim.note,
                }
                for claim in self.claims
            ]
            rows += [
                {"claim": name, "": "not applicable here", "note": why} for name, why in self.not_applicable.items()
            ]
            missed = sum(not claim.holds for claim in self.claims)
            lines += ["", "## Claims", "", *aligned(rows), ""]
            lines += [f"{len(self.claims) - missed} of {len(self.claims)} hold, {missed} missed."]
        return "\n".join(lines) + "\n"


def _figure(measured: float | str, unit: str, note: str) -> dict[str, Any]:
    value = measured if isinstance(measured, str | int) else float(measured)
    return {"measured": value} | ({"unit": unit} if unit else {}) | ({"note": note} if note else {})


def alternate(
    variants: Mapping[str, Callable[[], object]],
    repeats: int | Mapping[str, int] = REPEATS,
    warmup: int | Mapping[str, int] = 1,
) -> dict[str, list[float]]:
    """Wall-clock seconds of each variant. In every round the variants run in turn, so that all see the same load.

    There are `repeats` rounds, after `warmup` untimed calls of each variant. Both can be given per variant: it then
    takes part in that many of the first rounds, and has no warm-up if `warmup` lacks its name. Garbage is collected
    outside the timed part. On CUDA, the clock stops when the device has finished.
    """
    rounds = (
        dict.fromkeys(variants, repeats) if isinstance(repeats, int) else {name: repeats[name] for name in variants}
    )
    if not variants or min(rounds.values()) < 1:
        raise ValueError(f"repeats={repeats} of {len(variants)} variants: expected at least one of each")
    for name, function in variants.items():
        for _ in range(warmup if isinstance(warmup, int) else warmup.get(name, 0)):
            function()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for done in range(max(rounds.values())):
        for name, function in variants.items():
            if done < rounds[name]:
                times[name].append(seconds(function))
    return times


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    gc.collect()
    _synchronise()
    started = time.perf_counter()
    function()
    _synchronise()
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Speed-up of `fast` over `slow`: the median ratio over rounds, or the ratio of medians if their rounds differ."""
    if len(times[slow]) != len(times[fast]):
        return median(times[slow]) / median(times[fast])
    return median([one / other for one, other in zip(times[slow], times[fast], strict=True)])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and number of some times in seconds."""
    return {
        "median s": median(values),
        "min s": min(values),
        "max s": max(values),
        "repeats": len(values),
    }


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_bytes(prepare: Callable[..., Callable[[], object]], *arguments: Any, threads: int, device: str = "cpu") -> int:
    """Peak memory of one call in bytes, above what its process held before, measured in a fresh process.

    In that process, `prepare(*arguments)` makes the inputs and returns the call; both are pickled, so they have to be a
    module's function and plain values. On a CPU, the result is the peak resident set during the call (VmHWM in
    /proc/self/status, reset before it) minus the resident set before. Memory that `prepare` has freed is returned to
    the kernel first, since malloc would reuse it unnoticed. What libraries load or cache on first use counts, unless
    `prepare` has used them. On CUDA, the result is PyTorch's peak of allocated bytes minus those allocated before.
    """
    _give_back_freed_memory()  # `set_up` makes this process keep it, and the new process can need it
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(sender, prepare, arguments, threads, device))
    child.start()
    sender.close()
    try:
        peak = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(
            f"the process that measured the memory of {prepare.__name__}{arguments} ended with {child.exitcode}"
        ) from None
    child.join()
    return peak


def _measure_peak(
    sender: Connection, prepare: Callable[..., Callable[[], object]], arguments: tuple, threads: int, device: str
) -> None:
    torch.set_num_threads(threads)
    function = prepare(*arguments)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        sender.send(torch.cuda.max_memory_allocated() - held)
        return
    _give_back_freed_memory()
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # resets the peak to the memory held now, see proc(5)
    held = _own_memory("VmRSS")
    function()
    sender.send(_own_memory("VmHWM") - held)


def _give_back_freed_memory() -> None:
    if platform.libc_ver()[0] != "glibc":
        raise OSError("measuring peak memory needs glibc's malloc_trim, but this is another libc")
    ctypes.CDLL(None).malloc_trim(0)


def _own_memory(field: str) -> int:
    """The value of a line in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field} here")


def gemm_rate(dtype: torch.dtype, device: str = "cpu", size: int | None = None, repeats: int = REPEATS) -> float:
    """FLOP per second of a square matrix product, from the fastest of several; floors are computed with it."""
    size = size or GEMM_SIZE[device]
    one, other = torch.randn(2, size, size, device=device).to(dtype)
    out = torch.empty_like(one)
    torch.mm(one, other, out=out)
    return 2 * size**3 / min(seconds(lambda: torch.mm(one, other, out=out)) for _ in range(repeats))


def copy_rate(device: str = "cpu", size: int | None = None, repeats: int = REPEATS) -> float:
    """Bytes per second that a copy reads and writes together, from the fastest of several."""
    source = torch.ones((size or COPY_BYTES[device]) // 4, device=device)
    out = torch.empty_like(source).copy_(source)
    return 2 * source.nbytes / min(seconds(lambda: out.copy_(source)) for _ in range(repeats))


def state_rates(report: Report) -> dict[str, float]:
    """Measure this machine's rates into the report's floors: those of `precisions` in FLOP/s, `copy` in bytes/s."""
    device = report.settings.device
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {name: gemm_rate(types[name], device) for name in precisions(torch.device(device))}
    side = GEMM_SIZE[device]
    for name, rate in rates.items():
        report.floor(f"{name} matrix product", rate, "FLOP/s", f"{side} x {side}, fastest of {REPEATS}")
    rates["copy"] = copy_rate(device)
    report.floor("memory copy", rates["copy"], "B/s", f"read and written, fastest of {REPEATS}")
    return rates


def precisions(device: torch.device) -> list[str]:
    """The precisions in which it makes sense to measure on a device: without instructions for it, bf16 crawls."""
    held = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return ["fp32", "bf16"] if has_bf16(device) and not held else ["fp32"]


def machine_class(device: torch.device) -> str:
    """The class of machines to which a device belongs, as claims say on which they were seen."""
    if device.type == "cuda":
        return device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return AVX512 if has_bf16(device) else "AVX-512"
    return AVX2 if capability == "AVX2" else f"{platform.machine()}, {capability}"


def machine(settings: Settings) -> dict[str, Any]:
    """Facts that the numbers depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    facts: dict[str, Any] = {
        "cpu": device_name(torch.device("cpu")),
        "class": machine_class(torch.device(settings.device)),
        "cores": cores(),
        "flags": " ".join(flag for flag in MATRIX_FLAGS if flag in flags),
        "memory": quantity(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "B"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": settings.threads,
        "load before": os.getloadavg()[0],
        "kernel": platform.release().partition("-")[0],
        **versions(),
        "commit": git_commit() or "unknown",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
    return facts


def cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number(value: Any) -> str:
    """A value as tables show it; floats have three or four digits."""
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def quantity(value: Any, unit: str = "") -> str:
    """A value with its unit and, if it is large, an SI prefix."""
    if isinstance(value, float | int) and unit in ("B", "B/s", "FLOP", "FLOP/s"):
        scale, prefix = next(((scale, prefix) for scale, prefix in SCALES if abs(value) >= scale), (1, ""))
        return f"{number(value / scale if scale > 1 else value)} {prefix}{unit}"
    return f"{number(value)} {unit}".strip()


def aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table with aligned columns, which are the keys of all rows in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if any(row.get(name, "") != "" for row in rows)]
    cells = [names] + [[number(row.get(name, "")) for name in names] for row in rows]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(names))]
    right = [all(isinstance(row.get(name), int | float) for row in rows) if rows else False for name in names]

    def line(values: Sequence[str]) -> str:
        pairs = zip(values, widths, right, strict=True)
        return "| " + " | ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in pairs) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return [line(cells[0]), rule, *map(line, cells[1:])]


def main(subject: str, run: Callable[[Report], None], argv: Sequence[str] | None = None) -> int:
    """Run a benchmark's command. Returns 0, whether or not its claims hold, or 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{subject}", description=run.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--short", action="store_true", help="fewer and smaller cases, as a quick check")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads (default: all cores, %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON object to this file")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error(f"--threads {arguments.threads}: expected at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        parser.error(f"--output {arguments.output}: its folder does not exist")
    set_up(arguments.threads)
    settings = Settings(arguments.short, arguments.threads, arguments.device)
    report = Report(subject, settings)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report only
        try:
            run(report)
        except ValueError as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
    text = json.dumps(report.json(), indent=1, allow_nan=False) + "\n"
    if arguments.output is not None:
        write_text(arguments.output, text)
    sys.stdout.write(text if arguments.json else report.markdown())
    return 0
