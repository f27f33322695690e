"""Evaluations in which every episode adapts a copy of the network: resumed, shared, and paired with others."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dmf
from dmf import evaluate
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import images_of
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import evaluate_part_of_folder
from dmf.evaluation.partial import Part, partial_path, partial_paths
from dmf.methods.associative import EMPTY_WAYS, EpisodeCopy
from dmf.records.records import BEST, EvaluationRecord
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from reports.fill import fill
from reports.layouts import TABLES
from tests.records_in_memory import InMemory, planned

CONFIG = ExperimentConfig().with_paths(
    {
        "data.name": "glyphs",
        "data.image_size": 20,
        "data.channels": 1,
        "data.normalisation": "half",
        "augmentation.crop_padding": 2,
        "model.method": "centroid_alignment",
        "model.backbone": "conv4_relu",
        "model.novel_steps": 5,
        "model.alignment_iterations": 2,
        "model.related_classes": 2,
        "model.related_images": 3,
        "model.flattened": True,
        "training.device": "cpu",
        "start.head": "arc",
        "start.head_scale": 20.0,
        "start.head_margin": 0.01,
        "start.flattened": True,
        "start.training.optimiser": "adam",
        "start.training.learning_rate": 1e-3,
        "start.training.epochs": 2,
        "start.training.batches_per_epoch": 6,
        "start.training.batch_size": 16,
        "start.training.validation_episodes": 4,
    }
)
FINE_TUNING = CONFIG.with_paths({"model.method": "fine_tuning"})
TEST = EvaluationConfig(episodes=30, adapted_episodes=20, shot=1, queries=2)
BEFORE_KILL = 11


class Seen:
    """The logits of the episodes that were adapted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        self.logits: list[Tensor] = []
        own = EpisodeCopy.logits

        def noted(copied: EpisodeCopy, query: Tensor) -> Tensor:
            if len(self.logits) == stop:
                raise OSError(errno.EIO, "killed")
            self.logits.append(own(copied, query))
            return self.logits[-1]

        monkeypatch.setattr(EpisodeCopy, "logits", noted)


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the pre-training, and the methods that start from it, not tested."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMF_CACHE", str(cache))
        for config in (CONFIG.stage, CONFIG, FINE_TUNING):
            assert config is not None
            run_trial(config, (), store)
    return store


@pytest.fixture
def store(trained: Path, place: Path) -> Path:
    """A copy of that store, to test in."""
    return Path(shutil.copytree(trained, place / "runs"))


@pytest.fixture(scope="module")
def whole(
    trained: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationRecord, list[Tensor]]:
    """The record of a test that nothing disturbed, and its logits."""
    store = Path(shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMF_CACHE", str(cache))
        seen = Seen(patch)
        run_trial(CONFIG, (TEST,), store)
    record = Ledger(store).evaluation(CONFIG.key, TEST.key)
    assert record is not None and not partial_paths(Ledger(store).folder(CONFIG.key), TEST.key)
    return record, seen.logits


def test_it_has_the_first_episodes_of_the_common_bank(
    whole: tuple[EvaluationRecord, list[Tensor]], store: Path
) -> None:
    record, logits = whole
    assert len(record.correct) == len(logits) == 20 and record.counts.keys() == {EMPTY_WAYS}
    assert record.bank == episode_bank(images_of(CONFIG).test, TEST).hash
    every = TEST.resolve(FINE_TUNING)
    assert every == EvaluationConfig(episodes=30, shot=1, queries=2), "one that copies no network is tested on all"
    run_trial(FINE_TUNING, (every,), store)
    other = Ledger(store).evaluation(FINE_TUNING.key, every.key)
    assert other is not None and len(other.correct) == 30 and other.bank == record.bank
    assert other.counts == {}


def test_it_goes_on_after_a_kill_at_the_next_episode_with_the_same_bits(
    whole: tuple[EvaluationRecord, list[Tensor]], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, logits = whole
    with monkeypatch.context() as patch, pytest.raises(OSError):
        Seen(patch, stop=BEFORE_KILL)
        run_trial(CONFIG, (TEST,), store)
    torch.manual_seed(99)  # what else the process has drawn must not matter
    seen = Seen(monkeypatch)
    run_trial(CONFIG, (TEST,), store)
    assert len(seen.logits) == 20 - BEFORE_KILL
    assert all(torch.equal(*each) for each in zip(seen.logits, logits[BEFORE_KILL:], strict=True))
    resumed = Ledger(store).evaluation(CONFIG.key, TEST.key)
    assert resumed is not None and (resumed.correct, resumed.counts) == (record.correct, record.counts)


def lines_of(folder: Path) -> list[bytes]:
    """The results on disk, line by line, with their checksums."""
    paths = partial_paths(folder, TEST.key)
    return [line for path in paths for line in path.read_bytes().splitlines()[1:]]


def test_workers_that_work_at_the_same_time_share_it(
    whole: tuple[EvaluationRecord, list[Tensor]], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part is made while the first one is at its last episode."""
    folder = Ledger(store).folder(CONFIG.key)
    data, half = images_of(CONFIG), [Part(number=number, of=2) for number in (1, 2)]
    own, begun = EpisodeCopy.logits, []

    def meanwhile(copied: EpisodeCopy, query: Tensor) -> Tensor:
        begun.append(copied)
        if len(begun) == 10:
            assert evaluate_part_of_folder(folder, CONFIG, TEST, data, half[1]) is None
        return own(copied, query)

    monkeypatch.setattr(EpisodeCopy, "logits", meanwhile)
    record = evaluate_part_of_folder(folder, CONFIG, TEST, data, half[0])
    assert record is not None and record.correct == whole[0].correct


def test_workers_share_it(
    whole: tuple[EvaluationRecord, list[Tensor]], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever comes last writes the record, also if it is a worker that was to make the whole test."""
    folder = Ledger(store).folder(CONFIG.key)
    asked = "--episodes 30 --adapted-episodes 20 --nExemplars 1 --queries 2".split()
    record = folder / "evaluations" / f"{TEST.key}.json"
    for part in ("2/3", "3/3"):
        assert evaluate.main([str(folder), *asked, "--part", part]) == 0
        assert f"part {part} is done; the record is written when all 3 are" in capsys.readouterr().out
    assert not record.exists() and len(partial_paths(folder, TEST.key)) == 2
    each = [json.loads(line.rpartition(b" ")[0]) for line in lines_of(folder)]
    spent, cpu_spent = (sum(one[name] for one in each) for name in ("seconds", "cpu_seconds"))
    assert evaluate.main([str(folder), *asked, "--part", "1/3"]) == 0
    assert "5-way 1-shot, 20 test episodes" in capsys.readouterr().out
    found = EvaluationRecord.read(record)
    assert (found.correct, found.counts) == (whole[0].correct, whole[0].counts)
    assert found.seconds > spent and (found.cpu_seconds or 0.0) > cpu_spent, "the time of all workers"
    assert not partial_paths(folder, TEST.key)


def test_parts_are_all_episodes_once() -> None:
    for count, of in ((20, 3), (5, 8), (600, 7)):
        parts = [Part(number=number, of=of).episodes(count) for number in range(1, of + 1)]
        assert [episode for part in parts for episode in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "2", "a/b"])
def test_a_part_that_is_none_is_refused(wrong: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(Ledger(store).folder(CONFIG.key)), "--part", wrong]) == 2
    assert f"got part '{wrong}', expected a number and how many there are, such as 2/4" in capsys.readouterr().err


def test_results_of_other_weights_do_not_count(
    whole: tuple[EvaluationRecord, list[Tensor]], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = partial_path(Ledger(store).folder(CONFIG.key), TEST.key)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        Seen(patch, stop=3)
        run_trial(CONFIG, (TEST,), store)
    text = path.read_bytes()
    assert text.count(b"\n") == 4
    path.write_bytes(text.replace(b'"weights":"', b'"weights":"0', 1))
    seen = Seen(monkeypatch)
    run_trial(CONFIG, (TEST,), store)
    assert len(seen.logits) == 20


def test_too_few_base_classes_are_refused_before_anything_is_trained(tmp_path: Path, place: Path) -> None:
    classes = len(images_of(CONFIG).train.classes)
    many = CONFIG.with_paths({"model.related_classes": classes // 5 + 1})
    assert many.stage is not None
    run_trial(many.stage, (), tmp_path)
    with pytest.raises(
        ValueError, match=f"way=5 with related_classes={classes // 5 + 1} takes .* there are {classes};"
    ):
        run_trial(many, (TEST,), tmp_path)
    assert not (Ledger(tmp_path).folder(many.key) / BEST).exists()


def test_images_of_ones_own_are_aligned_to_the_trainings_base_images(store: Path) -> None:
    split = images_of(CONFIG).test
    support, query = ([split.pixels(torch.tensor([row])).numpy()[0] for row in rows] for rows in ((0, 30), (1, 31)))
    found = dmf.load(Ledger(store).folder(CONFIG.key)).classify(support, ["a", "b"], query)
    assert found.scores.shape == (2, 2) and found.scores.isfinite().all()


@pytest.mark.parametrize("first", ["proto_net", "matching_net", "relation_net"])
def test_a_method_on_episodes_can_be_the_first_stage(first: str, tmp_path: Path, place: Path) -> None:
    short: dict[str, Any] = {"training.epochs": 1, "training.warmup_epochs": 0, "training.episodes_per_epoch": 4}
    short |= {"training.validation_episodes": 2, "episodes.queries": 2}
    config = CONFIG.with_paths({"model.first_stage": first, **short}).model_copy(update={"start": None})
    config = ExperimentConfig.from_dict(config.model_dump(mode="json"))
    stage = config.stage
    assert isinstance(stage, ExperimentConfig) and stage.model.method == first and stage.stage is None
    assert stage.model.backbone_name == "conv4_relu"
    fine_tuned = config.with_paths({"model.method": "fine_tuning"})
    assert fine_tuned.stage == stage and fine_tuned.key != config.key
    assert config.with_paths({"training.epochs": 2}).key != config.key
    run_trial(stage, (), tmp_path)
    test = EvaluationConfig(episodes=2, queries=2, shot=1)
    record = run_trial(config, (test,), tmp_path)
    assert record.start is not None and record.start.key == stage.key
    assert CONFIG.with_paths({"model.first_stage": first}).stages[0] == CONFIG.stage, "which itself can be pre-trained"


def test_a_sweep_asks_for_fewer_episodes_of_the_methods_that_adapt_networks() -> None:
    planned = plan(read_spec(Path(__file__).parents[1] / "sweeps/table1_quick.yaml"))
    tested = {cell.config.model.method: cell.evaluation for cell in planned.cells}
    few = {method for method, evaluation in tested.items() if evaluation.tested == 100}
    assert few == {"centroid_alignment", "adversarial_alignment"}
    assert {evaluation.episodes for evaluation in tested.values()} == {1000}
    assert tested["fine_tuning"] == tested["proto_net"], "other tests are what they were"


def test_rows_are_compared_on_the_episodes_that_both_have() -> None:
    """Of 30 episodes, the row that adapts has 20; in the last ten, the other one has everything right."""
    methods = ("proto_net", "centroid_alignment")
    rows = [planned("1", TEST, (0, 1, 2), model__method=method, start__head="arc") for method in methods]
    records, random = InMemory(), np.random.default_rng(0)
    for seed in range(3):
        common = np.round(random.uniform(0.3, 0.6, 30), 1)
        records.tested(rows[0], np.where(np.arange(30) < 20, common, 1.0), seed)
        records.tested(rows[1], common[:20] + 0.1, seed, counts={EMPTY_WAYS: 4})
    table = fill(TABLES["1"], rows, records)
    (section,) = table.sections
    ours = next(cell for cell in section.cells if cell.value == "centroid_alignment")
    against = ours.to_baseline
    assert ours.episodes == 20 and ours.accuracy is not None and against is not None and not against.obstacle
    assert against.difference == pytest.approx(0.1)
    assert against.accuracy == pytest.approx(ours.accuracy)
    assert against.baseline_accuracy == pytest.approx(ours.accuracy - 0.1)
    assert against.other_classes is not None and "fewer episodes" in against.other_classes.obstacle
    notes = " ".join(table.notes)
    assert "Associative Alignment, centroid: tested on the first 20 of 30 episodes, and compared with others" in notes
    assert "Associative Alignment, centroid, 5-way 1-shot: 12 of 300 classes of episodes had no base image" in notes
