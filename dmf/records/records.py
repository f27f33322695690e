"""What a run leaves behind: one record per training, and one per evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from dmf.config import AnyTraining, EvaluationConfig, Task, Training
from dmf.values import Checked, Count, Value, describe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 2
"""Format of the records. Format 1 lacks per-class counts, checksums, pre-training and the validation task."""
CONFIG, RECORD, EVALUATIONS = "config.json", "training.json", "evaluations"
BEST, LAST, LOCK, STACKS = "best.safetensors", "last.safetensors", ".lock", "stacks.txt"
DAMAGED_BEST = "best.damaged.safetensors"
"""Files in a training's folder: the configuration, the training's record (written last), the folder of evaluation
records; the best weights, the checkpoint to resume from (deleted once the record is written), the lock of the process
that is working there, the stack traces of a process that was ended because it hung, and best weights that were put
aside because their checksum differs."""


def read_training(path: Path) -> AnyTraining:
    """Read the configuration in a training's folder. Raises ValueError for any other content."""
    return training_from(path.read_bytes(), f"the configuration in {path}")


def training_from(text: str | bytes, where: str = "the configuration") -> AnyTraining:
    """A training's configuration from JSON. Raises ValueError for any other content, which `where` names."""
    try:
        return _TRAINING.validate_json(text)
    except ValidationError as error:
        raise ValueError(describe(error, where)) from None


_TRAINING: TypeAdapter[AnyTraining] = TypeAdapter(Training)


def damaged_weights(key: str) -> str:
    """The error message for a training whose weights are damaged."""
    return (
        f"training {key} has ended and its best weights are damaged ({DAMAGED_BEST} in its folder); retrain it with "
        "--retrain-damaged"
    )


def without_weights(key: str) -> str:
    """The error message for evaluating a training whose weights were not kept."""
    return (
        f"training {key} has ended and its weights were not kept (keep_weights: false in its sweep, or {BEST} was "
        f"deleted), so it cannot be tested any more; remove its folder trainings/{key} from the store to train it anew"
    )


class Epoch(Value):
    """The training curves at one epoch. Losses are means over the epoch's steps; accuracies are fractions in [0, 1]."""

    epoch: int
    """Counted from 1."""
    loss: float
    losses: dict[str, float]
    """Parts of the loss by name, as the method calls them: `few_shot`, `global`."""
    learning_rate: float
    """The learning rate at the epoch's last step."""
    validation_accuracy: float | None = None
    seconds: float
    """Wall time, including validation."""


class Provenance(Value):
    """What a number depends on besides the configuration."""

    data_fingerprint: str
    """SHA-256 over classes and pixels of the data set (`DataSet.fingerprint`)."""
    image_sizes: str
    """Original sizes of the images, such as "84x84" or "56x40..500x375"; copies of a data set can differ in them."""
    git_commit: str | None
    """With "+changes" appended if the working tree was not clean; None outside a repository."""
    versions: dict[str, str]
    """Versions of Python, torch and other libraries."""
    device: str
    """The model of the GPU or processor."""
    device_type: Literal["cpu", "cuda"] = "cpu"
    """The default is for older records, which were all made on CPUs."""
    threads: int
    code: str = ""
    """`code_hash`, or several joined by `+` if the training was resumed with other code. Empty: unknown."""
    data_doubts: tuple[str, ...] = ()
    """What was left out, converted or found twice among the images, one sentence each (`DataSet.doubts`)."""


class Started(Value):
    """The pre-training or earlier training that a training started from."""

    key: str
    weights: str
    """SHA-256 of its weights."""


class Failure(Value):
    """Why a training has no result."""

    reason: str
    """One sentence."""
    kind: Literal["error", "machine", "memory", "disk", "stage"] = "error"
    """The cause: `machine`, the trial's machine; `memory`, too little memory on the GPU or the machine; `disk`, a full
    disk; `stage`, the pre-training that it starts from; `error`, anything else (configuration, data or code)."""
    traceback: str = ""
    step: int | None = None
    """For `diverged`: the first step (from 1) whose loss was not finite."""
    last_finite: dict[str, float] = Field(default_factory=dict)
    """For `diverged`: the losses of the previous step; at an epoch's first step, the previous epoch's means."""


class Kept(Value):
    """The state beside the weights in `BEST`."""

    key: str
    """The training's key."""
    epoch: int
    """The epoch that the weights come from; 0 for a method that learns nothing from episodes."""
    data: str
    """Fingerprint of the data set."""


class Going(Checked):
    """The state beside weights and the optimiser's tensors in `LAST`, from which a training resumes."""

    key: str
    threads: Count
    data: str
    seconds: float
    history: Annotated[tuple[Epoch, ...], Field(min_length=1)]
    cpu_seconds: float | None = None
    peak_bytes: int = 0
    code: str = ""
    """As in `Provenance`."""


class TrainingRecord(Checked):
    """The record of a training that has ended."""

    format: int = 1
    """The default is for files of format 1, which do not state it; new records set FORMAT."""
    key: str
    config: Training
    outcome: Literal["finished", "diverged", "failed"]
    failure: Failure | None = None
    history: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    """The epoch whose weights are kept: the first one with the highest validation accuracy."""
    best_validation_accuracy: float | None = None
    parameters: int | None = None
    """Number of learnt parameters."""
    image_flops: int | None = None
    """Floating-point operations of one image through the backbone, forward; a multiply-add counts as two."""
    seconds: float = 0.0
    """Wall time, summed over restarts."""
    cpu_seconds: float | None = None
    """CPU time of all threads, likewise; None in older records."""
    peak_bytes: int | None = None
    """Peak memory: on a GPU, what PyTorch had allocated; on a CPU, the process's resident memory."""
    provenance: Provenance | None = None
    validation: Task | None = None
    """The kind of episodes that selected the best epoch; None if nothing was selected."""
    start: Started | None = None
    weights: str = ""
    """SHA-256 of the best epoch's weights; empty if there are none."""


class EvaluationRecord(Checked):
    """The record of evaluating one trained model on one bank of episodes."""

    format: int = 1
    """As in `TrainingRecord`."""
    training_key: str
    evaluation_key: str
    config: EvaluationConfig
    accuracy: float
    """Mean over episodes, a fraction in [0, 1]."""
    ci95: float
    """Half-width 1.96 * std / sqrt(episodes); it covers the choice of episodes, given the model and the data."""
    correct: tuple[tuple[int, ...], ...] = ()
    """[E][N]: number of correct answers in each episode for each of its classes, which
    `dmf.records.classes.drawn_classes` lists."""
    episode_accuracies: tuple[float, ...] = ()
    """[E]; format 1 has it instead of `correct`."""
    classes: Count | None = None
    """Number of classes in the split that the episodes are drawn from; None in format 1."""
    bank: str
    """Hash of the bank's episodes. Evaluations with the same bank and data fingerprint are comparable per episode."""
    data_fingerprint: str
    epoch: int
    """The epoch that the tested weights come from."""
    seconds: float
    """Wall time, the images' forward passes included."""
    cpu_seconds: float | None = None
    """CPU time of all threads, likewise; None in older records."""
    code: str = ""
    """`code_hash` of the code that ran the evaluation. Empty: unknown."""
    data_doubts: tuple[str, ...] = ()
    """As in `Provenance`, of the images that were tested on."""
    counts: dict[str, int] = Field(default_factory=dict)
    """What the method counted beside its answers, over all episodes, by name (`Adaptation.counts`)."""

    @model_validator(mode="after")
    def _has_episodes(self) -> Self:
        if bool(self.correct) == bool(self.episode_accuracies):
            raise ValueError("expected either correct, or, in format 1, episode_accuracies; got both or neither")
        return self

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Accuracy of each episode [E], fractions in [0, 1]."""
        import numpy as np  # not needed for reading a record's summary

        if self.episode_accuracies:
            return np.array(self.episode_accuracies, dtype=np.float64)
        # Python's sum over each episode's few classes takes a third of the time of an array of them all.
        correct = np.fromiter(map(sum, self.correct), dtype=np.int64, count=len(self.correct))
        fractions: NDArray[np.float64] = correct / (self.config.way * self.config.queries)
        return fractions
