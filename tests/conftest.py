"""What several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with fixtures of the released code and real images, which lies beside a development checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared material is not at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of decoded images, for all tests that use `place`."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in."""
    monkeypatch.setenv("DMF_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trainings(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders `stopped`, of a small training on glyphs after its first epoch, and `ended`. To be copied."""
    from dmf import train
    from dmf.data.sets import open_data
    from dmf.training.run import close

    folder = tmp_path_factory.mktemp("trainings")
    config = train.configuration(train.parser().parse_intermixed_args(SMALL_TRAINING))
    images = open_data(config.data, cache_dir=cache)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(config, images, folder / "stopped", stop)
    close(folder / "ended", train.train(config, images, folder / "ended"))
    return folder


SMALL_TRAINING = """--dataset glyphs data.image_size=20 data.normalisation=half model.backbone=conv64f model.groups=8
augmentation.crop_padding=2 episodes.queries=3 training.epochs=2 training.warmup_epochs=1 training.device=cpu
training.episodes_per_epoch=4 training.validation_episodes=4""".split()
