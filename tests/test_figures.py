"""The paper's figures from our own models: what they draw is what the model computes, and the files repeat."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from mlflow import MlflowClient
from PIL import Image

from dmf.config import DataConfig, DMFConfig, ExperimentConfig
from dmf.data.sets import open_for
from dmf.evaluation.bank import episode_bank
from dmf.methods import build_method
from dmf.methods.dmf.model import DMF
from dmf.records.records import RECORD, TrainingRecord
from orchestrator import figures
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.server import tracking_uri
from reports.figures import command
from reports.figures.drawing import COLUMN_INCHES, FIGURES, figure_1, figure_3, figure_4
from reports.figures.episode import look
from reports.figures.values import aligned_maps, best_position, by_group, most_changed, sampled_places, strength
from reports.owners import FILE
from tests.oracles import apply_filter_by_loops, hat
from tests.sites import Site
from tests.test_sweep import SPEC

HEIGHT, WIDTH, GROUPS = 4, 5, 8


def model(**settings: object) -> DMF:
    torch.manual_seed(0)
    config = DMFConfig(backbone="conv64f", groups=GROUPS, **settings)
    method = build_method(config, DataConfig(image_size=28), base_classes=4).double().eval()
    assert isinstance(method, DMF)
    return method


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """A class map and a query map, with values of both signs."""
    class_map, query_map = torch.randn(2, 64, HEIGHT, WIDTH, dtype=torch.double, generator=torch.manual_seed(1))
    return class_map, query_map


def regular_places() -> np.ndarray:
    places = np.zeros((9, HEIGHT, WIDTH, 2))
    for tap, y, x in np.ndindex(9, HEIGHT, WIDTH):
        places[tap, y, x] = y - 1 + tap // 3, x - 1 + tap % 3
    return places


Maps = tuple[torch.Tensor, torch.Tensor]


def test_offsets_of_zero_give_the_regular_grid(maps: Maps) -> None:
    method = model()
    assert method.meta_filter is not None and method.meta_filter.offset_conv is not None
    torch.nn.init.zeros_(method.meta_filter.offset_conv.weight)
    assert np.array_equal(sampled_places(method.meta_filter, *maps).detach(), regular_places())
    ordinary = model(dynamic_sampling=False).meta_filter
    assert ordinary is not None and np.array_equal(sampled_places(ordinary, *maps), regular_places())


def test_the_filters_are_made_of_what_is_at_the_places(maps: Maps) -> None:
    method = model()
    assert method.meta_filter is not None
    with torch.no_grad():
        places = sampled_places(method.meta_filter, *maps).numpy()
        filters = method.meta_filter(maps[0][None, None], maps[1][None, None])[0, 0, 0].numpy()
        weight = method.meta_filter.filter_conv.weight.numpy()
    assert np.abs(places - regular_places()).max() > 0.1
    for y, x in np.ndindex(HEIGHT, WIDTH):
        total = np.zeros(GROUPS)
        for tap, (v, h) in enumerate(places[:, y, x]):
            near = hat(v - np.arange(HEIGHT))[:, None] * hat(h - np.arange(WIDTH))
            total += weight[:, :, tap // 3, tap % 3] @ (maps[0].numpy() * near).sum((1, 2))
        np.testing.assert_allclose(1 / (1 + np.exp(-total)), filters[:, y, x], rtol=1e-9)


def test_places_far_outside_and_on_the_other_axis_are_told_apart(maps: Maps) -> None:
    """A constant offset, through the query's part: tap 2 goes 3 down, tap 5 goes 7 to the left."""
    method, ones = model(), torch.zeros(64, HEIGHT, WIDTH, dtype=torch.double)
    ones[0] = 1
    assert method.meta_filter is not None and method.meta_filter.offset_conv is not None
    with torch.no_grad():
        weight = method.meta_filter.offset_conv.weight.zero_()
        weight[2 * 2, 0, 2, 2], weight[2 * 5 + 1, 0, 2, 2] = 3, -7
        moved = sampled_places(method.meta_filter, torch.zeros_like(ones), ones).numpy() - regular_places()
    assert np.array_equal(moved[2, 0, 0], [3, 0]) and np.array_equal(moved[5, 3, 4], [0, -7])
    assert not moved[[0, 1, 3, 4, 6, 7, 8]].any()


@pytest.mark.parametrize("settings", [{}, {"rectified": False}, {"alignment": 3}, {"kernel_size": 3}])
def test_maps_are_those_of_the_definition(settings: dict[str, object], maps: Maps) -> None:
    method = model(**settings)
    class_map, query_map = maps
    assert method.meta_filter is not None
    with torch.no_grad():
        found = aligned_maps(method, class_map, query_map)
        filters = method.meta_filter(class_map[None, None], query_map[None, None])[0, 0].numpy()
    assert torch.equal(found[0], query_map)

    def after(steps: int, length: float) -> np.ndarray:
        state = query_map[None].numpy()
        for _ in range(steps):
            change = apply_filter_by_loops(state, filters, method.alignment.kernel_size)
            state = state + length * (change if settings.get("rectified") is False else np.maximum(change, 0))
        return state[0]

    for steps in (1, 2):
        np.testing.assert_allclose(found[steps], after(steps, 1), rtol=1e-9)
    if method.alignment.kernel_size == 1:  # many short steps come close to the ODE
        np.testing.assert_allclose(found["ode"], after(100, 1 / 100), rtol=0.01)


def test_the_best_position_is_the_top_of_the_score_map(maps: Maps) -> None:
    method = model()
    class_map, query_map = maps
    with torch.no_grad():
        scores = (aligned_maps(method, *maps)["ode"] * _weights(class_map)[:, None, None]).sum(0)
        expected = np.unravel_index(int(scores.argmax()), (HEIGHT, WIDTH))
        assert best_position(method, class_map, query_map) == tuple(map(int, expected))


def _weights(class_map: torch.Tensor) -> torch.Tensor:
    return (class_map / class_map.norm(dim=0)).mean((1, 2))


def test_groups_are_runs_of_channels_and_the_most_changed_come_first() -> None:
    values = torch.arange(6.0).view(6, 1, 1)
    assert by_group(values, 3).flatten().tolist() == [0.5, 2.5, 4.5]
    before = torch.zeros(4, 1, 2)
    after = torch.tensor([[[0.0, 1.0]], [[-3.0, 3.0]], [[0.0, 0.0]], [[2.0, 1.0]]])
    assert most_changed(before, after, 3) == [1, 3, 0]
    assert most_changed(before, after, 9) == [1, 3, 0, 2]


def test_strength_is_the_length_of_the_feature_vector() -> None:
    assert strength(torch.tensor([[[3.0]], [[-4.0]]])).tolist() == [[5.0]]


@pytest.fixture
def store(trainings: Path, place: Path) -> Path:
    """A store with one training, in the folder to run commands in."""
    config = ExperimentConfig.read(trainings / "ended" / "config.json")
    shutil.copytree(trainings / "ended", place / "runs" / "trainings" / config.key)
    return place


def key_in(store: Path) -> str:
    (folder,) = (store / "runs" / "trainings").iterdir()
    return folder.name


def test_the_command_writes_the_same_bytes_again(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files(*arguments: str, output: str) -> dict[str, bytes]:
        assert command.main([*arguments, "--output", output]) == 0
        printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert all(path.parent.parent == Path(output, "figures", key_in(store)) for path in printed)
        return {path.name: path.read_bytes() for path in printed}

    first = files(key_in(store), "--episode", "3", output="a")
    assert sorted(first) == [f"figure_{n}.{suffix}" for n in (1, 3, 4) for suffix in ("png", "svg", "txt")]
    assert files(str(store / "runs" / "trainings" / key_in(store)), "--episode", "3", output="b") == first
    other = files(key_in(store), "--episode", "4", output="a")
    assert all(other[name] != first[name] for name in first)


def test_figures_of_other_weights_are_not_overwritten(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [key_in(store), "--episode", "0"]
    assert command.main(asked) == 0
    place = store / "results" / "figures" / key_in(store)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    before = files()
    shutil.copytree(store / "runs", store / "copy")
    assert command.main([*asked, "--store", "copy"]) == 0, "the same weights give the same figures"
    assert command.main(asked) == 0
    record = store / "copy" / "trainings" / key_in(store) / RECORD
    TrainingRecord.read(record).replace(weights="0" * 64).write(record)
    for episode in ("0", "1"):
        capsys.readouterr()
        assert command.main([key_in(store), "--episode", episode, "--store", "copy"]) == 2
        told = f"figures/{key_in(store)} has the figures of {store / 'runs'}"
        assert told in capsys.readouterr().err
    assert files() == before
    assert (
        command.main([key_in(store), "--episode", "1"]) == 0
        and files().items() > {path: data for path, data in before.items() if path.name != FILE}.items()
    )


def test_files_have_a_text_alternative_and_text_that_can_be_read_in_print(store: Path) -> None:
    assert command.main([key_in(store), "--episode", "0"]) == 0
    folder = store / "results" / "figures" / key_in(store) / "episode_0"
    for name in ("figure_1", "figure_3", "figure_4"):
        text = (folder / f"{name}.txt").read_text()
        root = ElementTree.parse(folder / f"{name}.svg").getroot()
        title, described = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}").text for tag in ("title", "desc"))
        assert f"{title}. {described}\n" == text and key_in(store) in text and "episode 0" in text
        assert root.get("role") == "img" and root.get("width") == "234pt"  # 3.25 inches
        image = Image.open(folder / f"{name}.png")
        assert (image.info["Title"], image.info["Description"]) == (title, described)
        assert image.width == 300 * COLUMN_INCHES


def test_all_text_is_seven_points_and_inside_the_figure(store: Path) -> None:
    seen = look(store / "runs" / "trainings" / key_in(store), 0)
    for draw in FIGURES:
        figure = draw(seen).figure
        figure.canvas.draw()
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert len(texts) >= 7 and {text.get_fontsize() for text in texts} == {7.0}
        whole = figure.bbox
        boxes = [text.get_window_extent() for text in texts]
        assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_the_images_are_those_of_the_episode(store: Path) -> None:
    folder = store / "runs" / "trainings" / key_in(store)
    seen = look(folder, 5)
    split = open_for(ExperimentConfig.read(folder / "config.json")).test
    rows = episode_bank(split, seen.task)[5:6]
    for way, pair in enumerate(seen.pairs):
        row = rows.query[0, way * seen.task.queries]
        assert np.array_equal(pair.query, split.pixels(row[None])[0])
        assert np.array_equal(pair.support[0], split.pixels(rows.support[0, way])[0])
        assert pair.name == split.classes[split.labels[int(row)]]


def test_drawings_hold_the_values(store: Path) -> None:
    seen = look(store / "runs" / "trainings" / key_in(store), 2)
    pair = seen.pairs[1]
    height, width = pair.query_map.shape[-2:]
    with torch.inference_mode():
        maps = aligned_maps(seen.method, pair.class_map, pair.query_map)
        y, x = best_position(seen.method, pair.class_map, pair.query_map)
        assert seen.method.meta_filter is not None
        places = sampled_places(seen.method.meta_filter, pair.class_map, pair.query_map)[:, y, x].numpy()
    columns = len(seen.pairs)
    panels = figure_3(seen).figure.axes
    (position,) = panels[1].lines
    assert position.get_xydata().tolist() == [[pytest.approx((x + 0.5) / width), pytest.approx((y + 0.5) / height)]]
    inside = [(h, v) for v, h in (places + 0.5) / (height, width) if 0 <= v <= 1 and 0 <= h <= 1]
    np.testing.assert_allclose(panels[columns + 1].lines[1].get_xydata(), np.reshape(inside, (-1, 2)), rtol=1e-6)

    drawn = figure_4(seen).figure.axes[5:10]  # the second query's row
    for panel, expected in zip(drawn[1:], maps.values(), strict=True):
        np.testing.assert_array_equal(panel.images[1].get_array(), strength(expected))
    assert len(drawn[0].images) == 1

    first = seen.pairs[0]
    with torch.inference_mode():
        before = by_group(first.query_map, 8)
        after = by_group(aligned_maps(seen.method, first.class_map, first.query_map)["ode"], 8)
    group = most_changed(before, after, 1)[0]
    panels = figure_1(seen).figure.axes
    assert panels[1].get_title() == f"group {group + 1}"
    for panel, values in ((panels[1], by_group(first.class_map, 8)), (panels[6], before), (panels[11], after)):
        np.testing.assert_array_equal(panel.images[0].get_array(), values[group])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["KEY", "--episode", "2000"],
            "--episode 2000: the test of training KEY has 2,000 episodes; give a number",
        ),
        (["KEY", "--episode", "-1"], "--episode -1: the test of training KEY has 2,000 episodes"),
        (["none", "--episode", "0"], "runs/trainings/none holds no finished training: config.json is missing"),
        (["KEY", "--episode", "0", "--root", "/images"], "glyphs are embedded; leave out data.root"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    given = [key_in(store) if argument == "KEY" else argument for argument in arguments]
    assert command.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and told.replace("KEY", key_in(store)) in said and said.count("\n") == 1
    assert not (store / "results").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alignment": 0}, "is dmf with model.alignment=0, which aligns nothing; give a training of dmf with 1, 2, 3"),
        ({"method": "proto_net"}, "is proto_net, which aligns nothing; give a training of dmf"),
    ],
)
def test_methods_that_align_nothing_are_refused(
    store: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, object], told: str
) -> None:
    folder = store / "runs" / "trainings" / key_in(store)
    kept = ExperimentConfig.read(folder / "config.json")
    model_config = {"backbone": "conv64f"} | settings
    ExperimentConfig.from_dict(kept.model_dump(mode="json") | {"model": model_config}).write(folder / "config.json")
    assert command.main([key_in(store), "--episode", "0"]) == 2
    assert told in capsys.readouterr().err


def test_a_run_without_weights_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "runs" / "trainings" / key_in(store) / "best.safetensors").unlink()
    assert command.main([key_in(store), "--episode", "0"]) == 2
    assert "its weights were not kept" in capsys.readouterr().err


def test_figures_are_logged_to_the_run_of_the_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(place, SPEC)
    assert site.run("--only", "groups=1") == 0, site.said
    (trial,) = [trial for trial in site.trials() if trial.config.model.groups == 1]
    asked = [trial.key, "--episode", "1", "--log"]
    assert figures.main(asked) == 0
    client = MlflowClient(tracking_uri(site.ledger.store, None))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{trial.key}'")
    assert run.info.run_id in capsys.readouterr().out
    logged = [file.path for file in client.list_artifacts(run.info.run_id, "figures/episode_1")]
    assert len(logged) == 9 and "figures/episode_1/figure_4.svg" in logged
    assert figures.main(["none", "--episode", "0"]) == 2
    assert figures.main([*asked[:-1], "--tracking-uri", "sqlite:///x.db"]) == 2
    assert "--tracking-uri says where --log writes" in capsys.readouterr().err
    assert figures.main([*asked, "--tracking-uri", "sqlite:///x.db"]) == 2
    assert "MLflow at sqlite:///" in (said := capsys.readouterr().err) and "has no run of training" in said
    assert Ledger.at("runs").state(trial) == "done"
