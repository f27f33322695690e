"""What a run leaves behind: one record per training, one per evaluation of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from dmf.config import AnyTraining, EvaluationConfig, Task, Training
from dmf.values import Count, Value, describe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 2
"""Of records. 1: without per-class counts, checksums, stages and the validation task."""
CONFIG, RECORD, EVALUATIONS = "config.json", "training.json", "evaluations"
BEST, LAST, LOCK, STACKS = "best.safetensors", "last.safetensors", ".lock", "stacks.txt"
"""What a training's folder holds: configuration, record (written last), a record per evaluation; the weights that are
tested, the checkpoint that only a resumption needs (it goes when the record is written), the lock of who works there,
and where a process that hung stood when it was ended."""


def read_training(path: Path) -> AnyTraining:
    """The configuration in a training's folder. ValueError for anything else."""
    return training_from(path.read_bytes(), f"the configuration in {path}")


def training_from(text: str | bytes, where: str = "the configuration") -> AnyTraining:
    """The same from JSON."""
    try:
        return _TRAINING.validate_json(text)
    except ValidationError as error:
        raise ValueError(describe(error, where)) from None


_TRAINING: TypeAdapter[AnyTraining] = TypeAdapter(Training)


def without_weights(key: str) -> str:
    """What is said when a training of which only records were kept is to be tested once more."""
    return (
        f"training {key} has ended and its weights were not kept (keep_weights: false in its sweep, or {BEST} was "
        f"deleted), so it can not be tested any more; remove its folder trainings/{key} from the store to train it anew"
    )


class Epoch(Value):
    """One epoch's curve points. Losses are means over the epoch's steps; accuracies are fractions in [0, 1]."""

    epoch: int
    """1 is the first."""
    loss: float
    losses: dict[str, float]
    """By name, as the method gives them: `few_shot`, `global`."""
    learning_rate: float
    """At the epoch's last step."""
    validation_accuracy: float | None = None
    seconds: float
    """Wall time, validation included."""


class Provenance(Value):
    """What else a number depends on."""

    data_fingerprint: str
    """SHA-256 over classes and pixels of the data set (`ImageSplit.fingerprint`s joined)."""
    image_sizes: str
    """Sizes of the images as found, such as "84x84" or "56x40..500x375": published numbers differ between copies."""
    git_commit: str | None
    """With "+changes" behind it when the working tree had any; None outside a repository."""
    versions: dict[str, str]
    """python, torch and what else took part."""
    device: str
    threads: int
    code: str = ""
    """`code_hash`; of a training that went on under other code, all of them with `+` between. Empty: not known."""
    data_doubts: tuple[str, ...] = ()
    """What is doubtful about the images, such as that some are missing."""


class Started(Value):
    """The pre-training that a training started from."""

    key: str
    weights: str
    """SHA-256 of its weights."""


class Failure(Value):
    """Why a training has no result."""

    reason: str
    """One sentence."""
    kind: Literal["error", "machine", "memory", "disk", "stage"] = "error"
    """Whose fault: of configuration, data or code, as far as is known; of the machine that a trial ran on; too little
    memory, on a GPU or of the machine; no room on a disk; of the pre-training that it starts from."""
    traceback: str = ""
    step: int | None = None
    """For `diverged`: the first step (from 1) whose loss was not finite."""
    last_finite: dict[str, float] = Field(default_factory=dict)
    """For `diverged`: the losses of the step before; at an epoch's first step, the means of the epoch before."""


class Kept(Value):
    """What lies beside the weights in `BEST`."""

    key: str
    epoch: int
    """Whose weights they are; 0 for a method that learns nothing."""
    data: str
    """Fingerprint of the data set."""


class Going(Value):
    """What lies beside weights and momenta in `LAST`: a training that goes on from there."""

    key: str
    threads: Count
    data: str
    seconds: float
    history: Annotated[tuple[Epoch, ...], Field(min_length=1)]
    peak_bytes: int = 0
    code: str = ""
    """As in `Provenance`."""


class TrainingRecord(Value):
    """One training, ended."""

    format: int = 1
    """Of files that do not say it; who writes gives FORMAT."""
    key: str
    config: Training
    outcome: Literal["finished", "diverged", "failed"]
    failure: Failure | None = None
    history: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    """The epoch whose weights are kept: highest validation accuracy, the first of equals."""
    best_validation_accuracy: float | None = None
    parameters: int | None = None
    """Number of learnt numbers."""
    seconds: float = 0.0
    """Wall time over all the starts that it took."""
    peak_bytes: int | None = None
    """The most memory: on a GPU that PyTorch had allocated, on a CPU that the process had (resident)."""
    provenance: Provenance | None = None
    validation: Task | None = None
    """The episodes that selected the best epoch; None where nothing was selected."""
    start: Started | None = None
    weights: str = ""
    """SHA-256 of the weights of the best epoch; empty where there are none."""


class EvaluationRecord(Value):
    """One trained model on one bank of episodes."""

    format: int = 1
    """As in `TrainingRecord`."""
    training_key: str
    evaluation_key: str
    config: EvaluationConfig
    accuracy: float
    """Mean over episodes, a fraction in [0, 1]."""
    ci95: float
    """Half-width 1.96 * std / sqrt(episodes): it covers the choice of episodes, given model and data."""
    correct: tuple[tuple[int, ...], ...] = ()
    """[E][N]: right answers in each episode, for each of its classes; `dmf.evaluation.bank.drawn_classes` says which
    classes these are."""
    episode_accuracies: tuple[float, ...] = ()
    """[E]; of format 1, in place of `correct`."""
    classes: Count | None = None
    """Of the split that the episodes are drawn from; None in format 1."""
    bank: str
    """Hash of the episode bank's rows: with equal data fingerprints, two evaluations can be compared per episode."""
    data_fingerprint: str
    epoch: int
    """Whose weights were tested."""
    seconds: float
    code: str = ""
    """`code_hash` of what tested them. Empty: not known."""

    @model_validator(mode="after")
    def _has_episodes(self) -> Self:
        if bool(self.correct) == bool(self.episode_accuracies):
            raise ValueError("give the right answers of every episode (correct), or of format 1 episode_accuracies")
        return self

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Accuracy of each episode [E], fractions in [0, 1]."""
        import numpy as np  # reading a record's summary does without

        if self.episode_accuracies:
            return np.array(self.episode_accuracies, dtype=np.float64)
        fractions: NDArray[np.float64] = np.array(self.correct).sum(axis=1) / (self.config.way * self.config.queries)
        return fractions
