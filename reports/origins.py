"""Where a cell's numbers come from: each seed's training, as its record states it, whether it counts or not."""

from __future__ import annotations

from typing import Literal

from dmf.values import Damaged, Value, printable
from reports.collect import Collected
from reports.tables import PlannedCell, Records


class Origin(Value):
    """One seed of a cell: its training and test, and the code and machine that made them."""

    seed: int
    training_key: str
    evaluation_key: str
    counts: bool
    """Whether its test is part of the cell's accuracy."""
    outcome: Literal["finished", "diverged", "failed", "damaged", "not ended"] = "not ended"
    failure: str = ""
    """Why the training has no result, or what is damaged, in a sentence."""
    commit: str | None = None
    """The git commit, with "+changes" appended if the working tree was not clean; None if not known."""
    code: str = ""
    """Hash of the code that trained it; empty if not known."""
    device: str = ""
    device_type: Literal["cpu", "cuda"] = "cpu"
    start_weights: str | None = None
    """SHA-256 of the weights of the pre-training or earlier training that it started from."""
    data_fingerprint: str = ""
    image_sizes: str = ""
    seconds: float | None = None
    """Wall time of the training."""
    peak_bytes: int | None = None
    """Peak memory: on a GPU, what PyTorch had allocated; on a CPU, the process's resident memory."""


def origins(cell: PlannedCell | None, found: Collected, records: Records) -> tuple[Origin, ...]:
    """One origin for each planned seed, in their order; none if nothing is planned."""
    if cell is None:
        return ()
    return tuple(
        _origin(seed, key, cell.evaluation.key, seed in found.seeds, records)
        for seed, key in zip(cell.seeds, cell.training_keys, strict=True)
    )


def _origin(seed: int, key: str, evaluation_key: str, counts: bool, records: Records) -> Origin:
    planned = Origin(seed=seed, training_key=key, evaluation_key=evaluation_key, counts=counts)
    try:
        ended = records.how_ended(key)
    except Damaged as error:
        told = printable(" ".join(str(error).split()))
        return planned.replace(outcome="damaged", failure=told)
    if ended is None:
        return planned
    made = ended.provenance
    known = (
        {
            "commit": made.git_commit,
            "code": made.code,
            "device": made.device,
            "device_type": made.device_type,
            "data_fingerprint": made.data_fingerprint,
            "image_sizes": made.image_sizes,
        }
        if made
        else {}
    )
    return Origin(
        **dict(planned)
        | {
            "outcome": ended.outcome,
            "failure": printable(ended.failure.reason) if ended.failure else "",
            "seconds": ended.seconds,
            "peak_bytes": ended.peak_bytes,
            "start_weights": ended.start_weights,
            **known,
        }
    )
