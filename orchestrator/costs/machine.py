"""Checks whether a sweep fits on this machine: trials at a time, memory, and disk space for weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dmf.config import AnyTraining
from orchestrator.costs.estimates import GPU_DRIVER, Cost
from orchestrator.costs.rates import BASE_CLASSES, buffer_bytes, parameters
from orchestrator.spec.model import Resources
from orchestrator.spec.plan import Trial
from reports.words import counted

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
BYTES_PER_PARAMETER = 4
CHECKPOINTS = 2
"""Of a running training, because the new one is written beside the old one."""
MOMENTS = {"sgd": 1, "adam": 2}
"""Numbers that an optimiser keeps for each parameter."""


@dataclass(frozen=True)
class Machine:
    """The resources of a machine."""

    cpus: int
    memory: int
    gpu_memory: tuple[int, ...] = ()
    """The memory of each GPU."""


def this_machine(uses_gpu: bool) -> Machine:
    """The resources that this process may use; GPUs only if asked for, since finding them takes seconds."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).is_file()]
    memory = min([memory, *(int(limit) for limit in limits if limit.isdigit())])
    if not uses_gpu:
        return Machine(cpus, memory)
    import torch

    gpus = range(torch.cuda.device_count())
    return Machine(cpus, memory, tuple(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus))


def at_a_time(trials: Sequence[Trial], resources: Resources, machine: Machine) -> int:
    """How many trials run together, counting the most demanding one; at least 1, even if the machine is too small."""
    needs = [_needs(trial.config, resources, machine) for trial in trials]
    together = [machine.cpus / cpu for cpu, _ in needs]
    together += [_shares(gpu, len(machine.gpu_memory)) for _, gpu in needs if gpu]
    return max(1, int(min(together, default=1)))


def _needs(config: AnyTraining, resources: Resources, machine: Machine) -> tuple[float, float]:
    cpu = float(resources.cpu or config.training.threads)
    uses_gpu = machine.gpu_memory and config.training.device != "cpu"
    return cpu, resources.gpu if resources.gpu is not None else float(bool(uses_gpu))


def _shares(gpu: float, gpus: int) -> int:
    """How many trials of `gpu` GPUs each fit; a fraction cannot span two GPUs."""
    return int(gpus // gpu) if gpu >= 1 else gpus * int(1 / gpu)


def shortages(
    trials: Sequence[Trial],
    costs: dict[str, Cost],
    resources: Resources,
    machine: Machine,
    store: Path,
    keep_weights: bool = True,
    base_classes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Sentences about what will not fit. `trials` are those still to be trained.

    `base_classes` has the number of training classes by the data set's name, as far as it is known.
    """
    together = min(at_a_time(trials, resources, machine), len(trials))
    known = [(costs[trial.key].bytes or 0, trial.config) for trial in trials]
    on_gpu = [(peak, config) for peak, config in known if _needs(config, resources, machine)[1]]
    on_cpu = [(peak, config) for peak, config in known if not _needs(config, resources, machine)[1]]
    found = []
    if on_cpu and together * (peak := max(peak for peak, _ in on_cpu)) > machine.memory:
        found.append(
            f"with {counted(together, 'training')} at a time, up to {_gigabytes(together * peak)} of memory is needed, "
            f"but this machine has {_gigabytes(machine.memory)}; raise resources.cpu so that fewer run at a time"
        )
    if on_gpu and machine.gpu_memory:
        peak, config = max(on_gpu, key=lambda one: one[0])
        share = _needs(config, resources, machine)[1]
        room = int(min(share, 1) * min(machine.gpu_memory))
        if peak > room:
            found.append(
                f"a training takes up to {_gigabytes(peak)} of GPU memory, resources.gpu={share:g} leaves it "
                f"{_gigabytes(room)}; raise resources.gpu"
            )
    return (*_too_much(trials, resources, machine), *found, *_disk(trials, together, store, keep_weights, base_classes))


def _too_much(trials: Sequence[Trial], resources: Resources, machine: Machine) -> list[str]:
    """Requests that this machine cannot meet; for GPUs only if their number is known."""
    needs = [_needs(trial.config, resources, machine) for trial in trials]
    gpus = len(machine.gpu_memory)
    setting = "resources.cpu" if resources.cpu else "training.threads (or resources.cpu)"
    asked = [(max((cpu for cpu, _ in needs), default=0.0), machine.cpus, "CPUs", setting)]
    if gpus or not GPU_DRIVER.exists():
        asked.append((max((gpu for _, gpu in needs), default=0.0), gpus, "GPUs", "resources.gpu"))
    return [
        f"a trial asks for {wanted:g} {what}, this machine has {there}; reduce {setting}, or start the sweep on a "
        "cluster with --address"
        for wanted, there, what, setting in asked
        if wanted > there
    ]


def _disk(
    trials: Sequence[Trial], together: int, store: Path, keep_weights: bool, base_classes: Mapping[str, int]
) -> list[str]:
    """Check the space for best weights (of all trainings, or of running ones) and for checkpoints of running ones."""
    sizes = sorted((_sizes(trial.config, base_classes) for trial in trials), reverse=True)
    kept = sum(weights for weights, _ in (sizes if keep_weights else sizes[:together]))
    needed = kept + CHECKPOINTS * sum(checkpoint for _, checkpoint in sizes[:together])
    here = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(here).free
    if needed <= free:
        return []
    what = counted(len(trials), "training") if keep_weights else f"{counted(together, 'training')} at a time"
    instead = ", or keep no weights with keep_weights: false" if keep_weights else ""
    return [
        (
            f"weights and checkpoints of {what} take up to {_gigabytes(needed)}, {here} has {_gigabytes(free)} free; "
            f"use a --store with more room{instead}"
        )
    ]


def _sizes(config: AnyTraining, base_classes: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of a training's weights, and of a checkpoint of it."""
    known = base_classes.get(config.data.name, BASE_CLASSES)
    learnt = BYTES_PER_PARAMETER * parameters(config, known)
    weights = learnt + buffer_bytes(config, known)
    return weights, weights + MOMENTS[config.training.optimiser] * learnt


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
