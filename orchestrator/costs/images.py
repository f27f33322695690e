"""Looks at a sweep's images before anything is paid for: what they are, and whether they allow its episodes.

The same for weights that trainings start from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmf.config import AnyTraining, DataConfig, ExperimentConfig
from dmf.data.known import EMBEDDED
from dmf.data.survey import Survey, survey
from dmf.evaluation.tasks import check_bank, check_base, check_episodes, reduced, validation_task
from dmf.machine.paths import expanded
from orchestrator.spec.plan import Trial
from reports.words import counted

MISTAKES_TOLD = 10
"""The most mistakes that a message has; the rest are counted."""


@dataclass(frozen=True)
class Look:
    """What is seen of the images of a sweep's trials; each data set is looked at once, and no image is decoded."""

    unset_is_doubt: bool = False
    """Whether a `data.root` that is not set is a doubt instead of a mistake, as for a plan."""
    absent_is_doubt: bool = False
    """Whether images that are not on this machine are, as where other machines run the trials."""
    facts: dict[str, None] = field(default_factory=dict)
    """A line for each data set, and for each kind of validation that its val split limits."""
    doubts: dict[str, None] = field(default_factory=dict)
    """Sentences about images that are left out, converted or found twice, or that are not here."""
    mistakes: dict[str, set[str]] = field(default_factory=dict)
    """What makes trainings impossible -> their keys."""
    _surveys: dict[tuple[DataConfig, bool], Survey | ValueError | None] = field(default_factory=dict)

    @property
    def impossible(self) -> set[str]:
        """The keys of trainings that cannot be run or tested."""
        return {key for keys in self.mistakes.values() for key in keys}

    @property
    def told(self) -> str:
        """The mistakes, one a line, each with the number of its trainings."""
        lines = [f"{mistake} ({counted(len(keys), 'training')})" for mistake, keys in self.mistakes.items()]
        if len(lines) > MISTAKES_TOLD:
            lines = [*lines[:MISTAKES_TOLD], f"... and {len(lines) - MISTAKES_TOLD} more"]
        return "\n  ".join(lines)

    @property
    def base_classes(self) -> dict[str, int]:
        """The number of training classes by the data set's name, where its images were found."""
        found = {config.name: survey for (config, _), survey in self._surveys.items() if isinstance(survey, Survey)}
        return {name: len(survey.splits["train"].classes) for name, survey in found.items() if "train" in survey.splits}

    def at(self, trials: Sequence[Trial]) -> None:
        """Look at the images of `trials`, and check every kind of episode that they ask for."""
        checked: dict[str, list[str]] = {}
        for trial in trials:
            kind = repr((*_read_by(trial.config), trial.evaluations))
            if kind not in checked:
                checked[kind] = list(self._mistakes(trial))
            for mistake in checked[kind]:
                self.mistakes.setdefault(mistake, set()).add(trial.key)

    def _mistakes(self, trial: Trial) -> Iterator[str]:
        config = trial.config
        yield from _raised(self._look, config.data, _at_full_size(config))
        own = self._known(config.data, _at_full_size(config))
        if isinstance(config, ExperimentConfig):
            yield from _raised(self._check_weights, config)
        if own and _learns(config):
            if isinstance(config, ExperimentConfig):
                yield from _raised(check_episodes, config, own.splits["train"])
            yield from _raised(self._note_validation, config, own)
        for evaluation in trial.evaluations:
            assert isinstance(config, ExperimentConfig)
            data = evaluation.data_of(config)
            full_size = evaluation.data is None and _at_full_size(config)
            if evaluation.data is not None:
                yield from _raised(self._look, data, full_size)
            if images := self._known(data, full_size):
                yield from _raised(check_bank, images.splits[evaluation.split], evaluation.resolve(config))
            if own:
                yield from _raised(check_base, config, evaluation, own.splits["train"])

    def _check_weights(self, config: ExperimentConfig) -> None:
        """Raise ValueError if the weights that a training starts from do not fit."""
        path, content = config.weights
        if content is None:
            return
        if path and self.absent_is_doubt and not Path(expanded(path)).exists():
            self.doubts[f"model.weights: there is nothing at {path} on this machine, so it was not looked at"] = None
            return
        from dmf.weights import check_weights  # torch takes seconds to import

        check_weights(config)

    def _look(self, config: DataConfig, full_size: bool) -> None:
        """Note the facts of a data set. Raises ValueError if it cannot be used."""
        if (config, full_size) not in self._surveys:
            self._surveys[config, full_size] = self._surveyed(config, full_size)
        found = self._surveys[config, full_size]
        if isinstance(found, ValueError):
            raise found

    def _surveyed(self, config: DataConfig, full_size: bool) -> Survey | ValueError | None:
        why = self._why_not_here(config)
        if why:
            self.doubts[f"images of {config.name}: {why}, so they were not looked at"] = None
            return None
        try:
            found = survey(config, full_size)
        except ValueError as error:
            return error
        self.facts[f"images: {found}"] = None
        self.doubts.update(dict.fromkeys(f"images of {config.name}: {doubt}" for doubt in found.doubts))
        return found

    def _why_not_here(self, config: DataConfig) -> str:
        if config.root is None:
            return "data.root is not set" if self.unset_is_doubt and config.name != EMBEDDED else ""
        away = self.absent_is_doubt and not Path(expanded(config.root)).exists()
        return f"there is nothing at {config.root} on this machine" if away else ""

    def _known(self, config: DataConfig, full_size: bool) -> Survey | None:
        found = self._surveys[config, full_size]
        return found if isinstance(found, Survey) else None

    def _note_validation(self, config: AnyTraining, images: Survey) -> None:
        task = validation_task(config, images.splits["val"])
        if reduced(config, task):
            asked = f"{task.way}-way {task.shot}-shot with {task.queries} queries per class"
            self.facts[f"validation on {images.name}: {asked}, as much as its val split allows (validation.*)"] = None


def _read_by(config: AnyTraining) -> tuple[object, ...]:
    """The settings on which the look at a training depends."""
    of_episodes: tuple[object, ...] = ()
    if isinstance(config, ExperimentConfig):
        of_episodes = config.episodes, config.model.read_of_base_classes, config.model.backbone_name, *config.weights
    return config.kind, config.data, _at_full_size(config), *of_episodes, config.validation, _learns(config)


def _at_full_size(config: AnyTraining) -> bool:
    return config.augmentation.crop == "resized"


def _learns(config: AnyTraining) -> bool:
    return not isinstance(config, ExperimentConfig) or config.model.learns


def _raised(check: Callable[..., None], *arguments: object) -> Iterator[str]:
    """The error of a check, if it raises one."""
    try:
        check(*arguments)
    except ValueError as error:
        yield str(error)
