"""Pre-training: trained once, shared, resumed, and named as the reason why dependent trainings are blocked."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dmf.config import EvaluationConfig, ExperimentConfig, Pretraining, Task
from dmf.data.sets import DataSet, images_of
from dmf.draws import derived_seed
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.partial import partial_path
from dmf.evaluation.tasks import validation_task
from dmf.methods.baseline.model import Baseline
from dmf.methods.meta_baseline.config import MetaBaselineConfig
from dmf.records.checkpoints import read_checkpoint, weights_checksum
from dmf.records.classes import drawn_classes
from dmf.records.records import BEST, LAST, TrainingRecord
from dmf.train import main as train_command
from dmf.training.classifier import BaseHead
from dmf.training.pretraining import PretrainingStage
from dmf.training.run import train
from orchestrator.running.order import Order, stages_first, with_stages
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import Trial, labels, plan
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import Today, standing
from orchestrator.sweep import main as sweep
from tests.conftest import SMALL_TRAINING
from tests.sites import unchecked
from tests.tiny import SETTINGS

STAGE = """
  start.head: cosine
  start.training.epochs: 2
  start.training.batches_per_epoch: 4
  start.training.batch_size: 16
  start.training.validation_episodes: 4
"""
SWEEP = f"""
name: transfer
set:{SETTINGS.format(epochs=2)}{STAGE}
resources: {{cpu: 1}}
evaluation: {{episodes: 6, queries: 4}}
parts:
  - table: 1
    grid: {{model.method: [proto_net, classifier_baseline, baseline]}}
""".replace("table: 1", 'table: "1"')


def configs(**more: Any) -> dict[str, ExperimentConfig]:
    """The configurations of SWEEP, by method."""
    (spec,) = [spec_from(yaml.safe_load(SWEEP) | more)]
    return {c.config.model.method: c.config for c in spec.resolved if isinstance(c.config, ExperimentConfig)}


@pytest.fixture(scope="module")
def images() -> DataSet:
    return images_of(configs()["proto_net"])


def test_a_stage_is_planned_once_and_before_its_dependants(place: Path) -> None:
    planned = plan(spec_from(yaml.safe_load(SWEEP)))
    first, *others = planned.trials()
    assert isinstance(first.config, Pretraining) and len(others) == 3 and not first.evaluations
    assert {trial.config.stage.key for trial in others if trial.config.stage} == {first.key}
    assert labels(trial.config for trial in planned.trials())[first.key] == "pre-training glyphs"
    assert stages_first([*others, first])[0] == first


def test_a_sweep_trains_a_stage_once_for_all_who_start_from_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("transfer.yaml").write_text(SWEEP)
    assert sweep(["transfer.yaml", "--executor", "local"]) == 0
    ledger = Ledger(Path("runs").resolve())
    found = {key: ledger.training(key) for key in ledger.kept_keys()}
    stage = configs()["proto_net"].stage
    assert stage is not None and len(found) == 4 and stage.key in found
    weights = weights_checksum(ledger.folder(stage.key) / BEST)
    for method, config in configs().items():
        record = found[config.key]
        assert record is not None and record.outcome == "finished"
        assert record.start is not None and (record.start.key, record.start.weights) == (stage.key, weights)
        assert len(record.history) == (2 if method == "proto_net" else 0)
        (test,) = ledger.evaluations(config.key)
        assert len(test.correct) == 6 and test.accuracy == pytest.approx(test.accuracies.mean())
        assert not partial_path(ledger.folder(config.key), test.evaluation_key).exists()
    said = capsys.readouterr().out
    assert "4 trainings: 4 done" in said and "Classifier-Baseline" in said
    assert sweep(["transfer.yaml", "--executor", "local"]) == 0
    assert "4 done, 0 to run" in capsys.readouterr().out


@pytest.fixture
def chained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a Meta-Baseline with squared distances go on from one with cosines."""

    def earlier(config: MetaBaselineConfig) -> MetaBaselineConfig | None:
        return config.replace(similarity="cosine") if config.similarity == "squared" else None

    monkeypatch.setattr(MetaBaselineConfig, "earlier", property(earlier))


CHAIN = SWEEP.replace("[proto_net, classifier_baseline, baseline]", "[meta_baseline]").replace(
    "start.head: cosine", "start.head: cosine\n  model.similarity: squared"
)


@pytest.mark.usefixtures("chained")
def test_a_training_may_start_from_one_that_starts_from_another(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(spec_from(yaml.safe_load(CHAIN)))
    pretraining, earlier, last = planned.trials()
    assert last.config.stages == (pretraining.config, earlier.config)
    assert [trial.starts_others for trial in planned.trials()] == [True, True, False]
    assert stages_first([last, earlier, pretraining]) == planned.trials()
    assert with_stages([last], planned.trials()) == planned.trials()
    assert last.key != earlier.key != pretraining.key
    assert [each.stages for each in last.config.with_seeds([0])] == [last.config.stages]
    Path("chain.yaml").write_text(CHAIN + "keep_weights: false\n")
    assert sweep(["chain.yaml", "--executor", "local", "--only", "*squared*"]) == 0
    assert "3 trainings: 3 done" in capsys.readouterr().out
    ledger = Ledger(Path("runs").resolve())
    record = ledger.training(last.key)
    assert record is not None and record.start is not None and record.start.key == earlier.key
    assert ledger.has_weights(earlier.key) and not ledger.has_weights(last.key)
    (ledger.folder(last.key) / "training.json").unlink()
    ledger.put_weights_aside(earlier.key)
    stands = standing(last, ledger, Today())
    assert stands.state == "blocked" and stands.why.startswith(f"its earlier training {earlier.key} is damaged")


def test_only_a_dependant_brings_its_stage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("transfer.yaml").write_text(SWEEP)
    assert sweep(["transfer.yaml", "--executor", "local", "--only", "*classifier_baseline*"]) == 0
    assert "2 trainings: 2 done" in capsys.readouterr().out


def test_a_failed_stage_is_the_reason_of_its_dependants(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("transfer.yaml").write_text(SWEEP)
    stage = configs()["proto_net"].stage
    assert stage is not None
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingStage, "losses", lambda *_: 1 / 0)
        assert sweep(["transfer.yaml", "--executor", "local"]) == 1
    why = f"its pre-training {stage.key} failed: ZeroDivisionError: division by zero"
    said = capsys.readouterr().out
    assert "4 trainings: 1 failed, 3 blocked" in said and said.count(f"blocked: {Path('runs').resolve()}") == 3
    assert said.count(why) >= 3
    in_table = why.replace("failed", "failed when last tried")
    assert in_table in Path("results/transfer/table_1.md").read_text(), "the table says why its cells are empty"
    ledger = Ledger(Path("runs").resolve())
    assert all(ledger.training(config.key) is None for config in configs().values()), "they have not failed themselves"
    assert sweep(["transfer.yaml", "--executor", "local"]) == 1
    assert "0 to run, 4 left as they are" in capsys.readouterr().out
    assert sweep(["transfer.yaml", "--executor", "local", "--retry-failed"]) == 0


def test_what_waits_for_a_stage_is_given_once_it_has_ended(tmp_path: Path) -> None:
    ledger, skipped = Ledger(tmp_path), []
    config = configs()["proto_net"]
    assert config.stage is not None
    stage, dependant = Trial(config.stage, ()), Trial(config, ())
    order = Order([dependant, stage], ledger, lambda key, failure: skipped.append((key, failure.reason)))
    assert order.next() == stage and order.next() is None and order.waiting
    ledger.write_training(TrainingRecord(key=stage.key, config=config.stage, outcome="diverged"))
    order.ended(stage.key)
    assert order.next() is None and not order.waiting
    assert skipped == [(dependant.key, f"its pre-training {stage.key} diverged")]
    alone = Order([dependant], Ledger(tmp_path / "empty"), lambda key, failure: skipped.append((key, failure.reason)))
    assert alone.next() is None and skipped[1:] == [(dependant.key, f"its pre-training {stage.key} has not ended")]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_stage_resumes_with_the_same_bits(tmp_path: Path, images: DataSet, optimiser: str) -> None:
    stage = configs()["proto_net"].replace(start__training__optimiser=optimiser).stage
    assert stage is not None

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    train(stage, images, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(stage, images, tmp_path / "killed", stop)
    record = train(stage, images, tmp_path / "killed")
    assert len(record.history) == 2 and record.history[0].losses.keys() == {"classification"}
    assert record.validation == Task(way=5, shot=1, queries=15)
    for name in (BEST, LAST):
        ours, theirs = (read_checkpoint(tmp_path / folder / name)[0] for folder in ("killed", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_batches_go_through_all_images_pass_by_pass(images: DataSet) -> None:
    config = configs()["proto_net"].replace(start__training__batch_size=64).stage
    assert config is not None
    stage = PretrainingStage(config, images, torch.device("cpu"))
    count = len(images.train)
    drawn = torch.cat([stage.indices(step) for step in range(2 * count // 64 + 1)])
    assert sorted(drawn[:count].tolist()) == sorted(drawn[count : 2 * count].tolist()) == list(range(count))
    assert drawn[:count].tolist() != drawn[count : 2 * count].tolist()


def test_a_training_starts_from_the_weights_of_its_stage(tmp_path: Path, images: DataSet) -> None:
    config = configs()["classifier_baseline"]
    assert config.stage is not None
    with pytest.raises(ValueError, match=f"starts from pre-training {config.stage.key}, but its weights are not at"):
        train(config, images, tmp_path / "early", start=tmp_path / "stage" / BEST)
    train(config.stage, images, tmp_path / "stage")
    train(config, images, tmp_path / "own", start=tmp_path / "stage" / BEST)
    stage, own = (read_checkpoint(tmp_path / name / BEST)[0] for name in ("stage", "own"))
    assert own and all(torch.equal(stage[name], value) for name, value in own.items())
    with pytest.raises(ValueError, match="holds training .*; expected pre-training"):
        train(configs()["proto_net"], images, tmp_path / "other", start=tmp_path / "own" / BEST)


def test_an_adapted_evaluation_goes_on_after_a_kill(
    tmp_path: Path, images: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs()["baseline"]
    assert config.stage is not None
    test = EvaluationConfig(episodes=20, queries=4, shot=1)
    for store in ("whole", "killed"):
        run_trial(config.stage, (), tmp_path / store)
    run_trial(config, (test,), tmp_path / "whole")
    seen: list[int] = []
    adapt = Baseline.adapt

    def counted(self: Baseline, images: Any, support: Any, query: Any, seeds: Any) -> Any:
        if len(seen) == 8:
            raise OSError(errno.EIO, "killed")
        seen.extend(seeds)
        return adapt(self, images, support, query, seeds)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Baseline, "adapt", counted)
        run_trial(config, (test,), tmp_path / "killed")
    ledger = Ledger(tmp_path / "killed")
    partial = partial_path(ledger.folder(config.key), test.key)
    partial.write_bytes(partial.read_bytes()[:-3])  # as if a kill had truncated the last line
    run_trial(config, (test,), tmp_path / "killed")
    ours, theirs = ledger.evaluation(config.key, test.key), Ledger(tmp_path / "whole").evaluation(config.key, test.key)
    assert ours is not None and theirs is not None and ours.correct == theirs.correct
    assert seen == [derived_seed(test.seed, index) for index in range(8)] and not partial.exists()


def test_methods_share_a_pre_training_with_the_same_head() -> None:
    base = configs()["classifier_baseline"].replace(start__head="linear")
    baseline, rfs = (base.replace(model__method=method) for method in ("baseline", "rfs"))
    assert baseline.stage == rfs.stage and baseline.key != rfs.key
    margin = {"start.head": "cosine", "start.head_scale": 30.0, "start.head_margin": -0.02}
    plus = base.with_paths({"model.method": "baseline_pp", "start.head": "weight_norm", "start.head_scale": 2.0})
    negative = base.with_paths({"model.method": "negative_margin"} | margin)
    stages = [config.stage for config in (baseline, plus, negative)]
    assert len({stage.key for stage in stages if stage}) == 3
    assert plus.replace(start__head_margin=0.3).key == plus.key, "that head has no margin"
    assert negative.replace(start__head_margin=0.3).stage != negative.stage
    for config in (baseline, plus, negative):
        assert config.stage is not None
        of_head = {name.removeprefix("model.") for name in config.stage.unread if "head" in name}
        assert {f"start.{name}" for name in of_head} == {name for name in config.unread if "start.head" in name}


@pytest.mark.parametrize("head", ["linear", "cosine", "weight_norm", "shifted", "arc"])
def test_a_pre_training_learns_with_each_head(head: str, tmp_path: Path, images: DataSet) -> None:
    settings = {"start.head": head, "start.head_scale": 10.0, "start.head_margin": -0.05}
    settings |= {"start.training.epochs": 3, "start.training.batches_per_epoch": 15, "start.training.batch_size": 64}
    stage = configs()["proto_net"].with_paths(settings).stage
    assert stage is not None
    record = train(stage, images, tmp_path)
    losses = [epoch.loss for epoch in record.history]
    assert losses[-1] < losses[0]
    weights = read_checkpoint(tmp_path / BEST)[0]
    kinds = {name.removeprefix("model.head.") for name in weights if name.startswith("model.head.")}
    assert kinds == {"weight"} | {"linear": {"bias"}, "weight_norm": {"norms"}}.get(head, set())


@pytest.mark.parametrize("head", ["linear", "cosine", "arc"])
def test_validation_by_a_head_that_is_fitted_to_each_episode(head: str, tmp_path: Path, images: DataSet) -> None:
    config = configs()["proto_net"].with_paths({"start.head": head, "start.validated_by": "fitted_head"})
    assert config.stage is not None and config.start is not None
    record = train(config.stage, images, tmp_path)
    other = train(config.with_paths({"start.validated_by": "nearest_mean"}).stage, images, tmp_path / "mean")
    assert [each.loss for each in record.history] == [each.loss for each in other.history]
    assert record.best_validation_accuracy != other.best_validation_accuracy
    with pytest.raises(ValueError, match="start.head=weight_norm cannot be fitted to validation episodes; use "):
        config.with_paths({"start.head": "weight_norm"})


def test_a_negative_margin_is_for_training_only() -> None:
    head = BaseHead(6, 4, "cosine", scale=5.0, margin=-0.2)
    features, labels = torch.randn(3, 6), torch.tensor([0, 2, 2])
    gain = head(features, labels) - head(features)
    torch.testing.assert_close(gain, torch.nn.functional.one_hot(labels, 4).float())


def test_baseline_pps_head_is_weight_normalised() -> None:
    head, linear = BaseHead(6, 4, "weight_norm", scale=2.0), torch.nn.Linear(6, 4, bias=False)
    linear.load_state_dict({"weight": head.weight})
    features = torch.randn(3, 6)
    units = features / (features.norm(dim=-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(head(features), 2 * linear(units), msg="norms start as those of the weights")
    with torch.no_grad():
        head.norms.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    cosines = torch.nn.functional.cosine_similarity(features[:, None], head.weight, dim=-1)
    torch.testing.assert_close(head(features), 2 * cosines * head.norms, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("way", "asked", "expected"),
    [
        (20, {}, Task(way=20, shot=1, queries=15)),
        (20, {"validation.way": 5}, Task(way=5, shot=1, queries=15)),
        (5, {"validation.shot": 3, "validation.queries": 2}, Task(way=5, shot=3, queries=2)),
        (5, {"episodes.shot": 20}, Task(way=5, shot=20, queries=10)),
        (5, {"episodes.shot": 30}, Task(way=5, shot=29, queries=1)),
        (5000, {}, Task(way=81, shot=1, queries=15)),
    ],
)
def test_the_validation_task_is_what_the_split_allows(
    way: int, asked: dict[str, Any], expected: Task, images: DataSet
) -> None:
    """Glyphs have 81 validation classes of 30 images."""
    config = configs()["proto_net"].with_paths({"episodes.way": way} | asked)
    classes = min(expected.way, len(images.val.classes))
    assert validation_task(config, images.val) == expected.replace(way=classes)


def test_a_validation_task_that_the_split_does_not_allow_is_refused(images: DataSet) -> None:
    config = configs()["proto_net"].with_paths({"validation.queries": 30})
    with pytest.raises(
        ValueError, match="5-way 1-shot episodes with 30 queries per class needs 5 classes of 31 images"
    ):
        validation_task(config, images.val)


def test_twenty_way_training_is_validated_five_way(tmp_path: Path) -> None:
    config = configs()["proto_net"].with_paths({"episodes.way": 20, "validation.way": 5, "start": None})
    record = run_trial(config, (EvaluationConfig(episodes=4, queries=4, shot=1),), tmp_path)
    assert record.validation == Task(way=5, shot=1, queries=15) and record.best_validation_accuracy is not None


def test_the_classes_of_a_bank_are_known_without_its_images(images: DataSet) -> None:
    config = EvaluationConfig(episodes=9, way=4, shot=2, queries=3)
    bank = episode_bank(images.test, config)
    expected = images.test.labels[bank.support[:, :, 0].numpy()]
    assert (drawn_classes(config, len(images.test.classes)) == expected).all()


def test_the_command_trains_the_pre_training_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [text for text in SMALL_TRAINING if not text.startswith("model.groups")]
    stage = [line.strip().replace(": ", "=") for line in STAGE.strip().splitlines()]
    command = [*settings, "model.method=classifier_baseline", *stage]
    assert train_command(command) == 0
    first = capsys.readouterr().out
    assert first.count("pre-training in runs/trainings/") == 1 and "epoch 2: classification" in first
    assert len(list(Path("runs/trainings").iterdir())) == 2
    assert train_command(command) == 0
    assert capsys.readouterr().out.startswith("already done")


@pytest.fixture
def lost(place: Path, capsys: pytest.CaptureFixture[str]) -> Ledger:
    """A store with a pre-training whose weights are gone, and one of the trainings that start from it."""
    Path("transfer.yaml").write_text(SWEEP)
    assert sweep(["transfer.yaml", "--executor", "local", "--only", "*classifier_baseline*"]) == 0
    capsys.readouterr()
    ledger = Ledger(Path("runs").resolve())
    (ledger.folder(stage_key()) / BEST).unlink()
    return ledger


def stage_key() -> str:
    stage = configs()["proto_net"].stage
    assert stage is not None
    return stage.key


def made_by_other_code(ledger: Ledger, key: str) -> Path:
    """Make a training's record one of other code; return its path."""
    path = ledger.folder(key) / "training.json"
    record = unchecked(path)
    record["provenance"]["code"] = "0" * 16
    path.write_text(json.dumps(record))
    return path


def superseded(ledger: Ledger) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (ledger.store / "superseded").glob("*"))


def test_without_its_pre_trainings_weights_nothing_starts(lost: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(["transfer.yaml", "--plan"]) == 0
    why = f"its pre-training {stage_key()} has ended and its weights were not kept; --retrain-lost puts it aside"
    said = capsys.readouterr().out
    assert "4 trainings" not in said and "2 done, 2 blocked" in said and said.count(why) == 2
    assert sweep(["transfer.yaml", "--executor", "local"]) == 1
    said = capsys.readouterr().out
    assert "0 to run, 2 left as they are (2 blocked)" in said and said.count(why) == 2
    assert set(lost.kept_keys()) == {stage_key(), configs()["classifier_baseline"].key} and not superseded(lost)


def test_lost_weights_are_made_anew_for_those_that_need_them(lost: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    done = configs()["classifier_baseline"].key
    before = (lost.folder(done) / "training.json").read_bytes()
    assert sweep(["transfer.yaml", "--executor", "local", "--retrain-lost"]) == 0, capsys.readouterr().out
    assert superseded(lost) == [stage_key()] and (lost.folder(done) / "training.json").read_bytes() == before
    records = [lost.training(config.key) for config in configs().values()]
    starts = {record.start.weights for record in records if record and record.start}
    assert starts == {weights_checksum(lost.folder(stage_key()) / BEST)}, "the same bits as before"
    (lost.folder(stage_key()) / BEST).unlink()
    capsys.readouterr()
    assert sweep(["transfer.yaml", "--executor", "local", "--retrain-lost"]) == 0
    assert "4 done, 0 to run" in capsys.readouterr().out, "nothing needs them any more"


def test_what_cannot_start_is_not_put_aside(lost: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """A stale training that is to be retrained, and whose pre-training's weights are gone."""
    done = configs()["classifier_baseline"].key
    path = made_by_other_code(lost, done)
    stale = ["transfer.yaml", "--executor", "local", "--only", "*classifier_baseline*", "--retrain-stale"]
    assert sweep(stale) == 1
    said = capsys.readouterr().out
    assert "1 done, 0 to run, 1 left as they are (1 stale)" in said and path.is_file() and not superseded(lost)
    assert f"left as it is, since its pre-training {stage_key()} has ended and its weights were not kept" in said
    assert sweep([*stale, "--retrain-lost"]) == 0, capsys.readouterr().out
    assert superseded(lost) == sorted([stage_key(), done])


def test_a_blocked_training_does_not_start_from_what_is_stale(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where something else is retried."""
    Path("transfer.yaml").write_text(SWEEP)
    assert sweep(["transfer.yaml", "--executor", "local", "--only", stage_key()]) == 0
    ledger = Ledger(Path("runs").resolve())
    made_by_other_code(ledger, stage_key())
    assert sweep(["transfer.yaml", "--executor", "local", "--retry-failed"]) == 1
    assert "0 to run, 4 left as they are (1 stale, 3 blocked)" in capsys.readouterr().out
    assert set(ledger.kept_keys()) == {stage_key()}


@pytest.mark.usefixtures("chained")
def test_a_chain_of_lost_weights_is_made_anew_from_its_beginning(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("chain.yaml").write_text(CHAIN)
    pretraining, earlier, last = plan(spec_from(yaml.safe_load(CHAIN))).trials()
    assert sweep(["chain.yaml", "--executor", "local"]) == 0
    ledger = Ledger(Path("runs").resolve())
    for trial in (pretraining, earlier):
        (ledger.folder(trial.key) / BEST).unlink()
    ledger.forget(last.key)
    assert sweep(["chain.yaml", "--executor", "local", "--retrain-lost"]) == 0, capsys.readouterr().out
    assert superseded(ledger) == sorted([pretraining.key, earlier.key])


def test_what_began_from_stale_weights_begins_anew_with_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --retrain-stale; it would go on from a checkpoint of the earlier weights."""
    Path("transfer.yaml").write_text(SWEEP)
    planned = plan(spec_from(yaml.safe_load(SWEEP)))
    stage, begun = planned.trials()[:2]
    ledger = Ledger(Path("runs").resolve())

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    run_trial(stage.config, (), ledger.store)
    with pytest.raises(KeyboardInterrupt):
        run_trial(begun.config, begun.evaluations, ledger.store, stop)
    made_by_other_code(ledger, stage.key)
    assert sweep(["transfer.yaml", "--executor", "local", "--only", begun.key, "--retrain-stale"]) == 0
    assert superseded(ledger) == sorted([stage.key, begun.key]), capsys.readouterr().out
