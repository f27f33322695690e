"""Fixtures and settings shared by several test files."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

REHEARSAL = "DMF_GPU_TESTS_ON"
"""With this variable set to "cpu", tests that take their device from the fixture `gpu` run on the CPU."""
ALONE = (
    *("test_ray", "test_frozen", "test_interrupts", "test_remote_sweep", "test_search", "test_tutorial"),
    "test_watchdog",
)
"""Files that start Ray, which uses the whole machine, or depend on time: no two of them run at the same time."""

os.environ.pop("MLFLOW_TRACKING_URI", None)  # keeps tests away from a user's server
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job; commands of tests would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "full: takes minutes or needs other programs; `make test` leaves it out, `make test-full` runs it"
    )
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped without one; `pytest -m gpu` runs these alone")


def pytest_runtest_setup(item: pytest.Item) -> None:
    rehearsed = REHEARSAL in os.environ and "gpu" in getattr(item, "fixturenames", ())
    if item.get_closest_marker("gpu") and not torch.cuda.is_available() and not rehearsed:
        pytest.skip("PyTorch sees no GPU here")


@pytest.fixture
def gpu() -> torch.device:
    """The device of a test marked `gpu`."""
    return torch.device(os.environ.get(REHEARSAL, "cuda"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files in ALONE first: they take longest, and the other worker has enough other work."""
    items.sort(key=lambda item: item.path.stem not in ALONE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file in one worker of pytest-xdist, since its tests share fixtures, and all files in ALONE in another.

    Marks for --dist=loadgroup would do the same, but pytest-xdist 3.8 loses them with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling  # tests marked `gpu` do without pytest-xdist

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "alone" if Path(file).stem in ALONE else file

    config.option.loadscopereorder = False  # keep the order above
    return ByFile(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the released code's fixtures and real images, beside a development checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared material is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def omniglot_root(shared: Path) -> Path:
    root = shared / "data" / "omniglot"
    if not root.is_dir():
        pytest.skip(f"no Omniglot at {root}")
    return root


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of decoded images for all tests that use `place`, in all workers of pytest-xdist; it is locked."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in."""
    monkeypatch.setenv("DMF_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trainings(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a small training on glyphs: `stopped` after its first epoch, and `ended`. Copy before use."""
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
