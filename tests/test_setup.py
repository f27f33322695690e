"""What setup.py compiles for, and on how many cores."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from torch.utils import cpp_extension

KNOWN = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_90a", "compute_90")


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dmf_setup", Path(__file__).parents[1] / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("cards", "architectures"),
    [
        ([(9, 0)], "9.0"),
        ([(8, 0), (8, 0)], "8.0"),
        ([(9, 0), (8, 6)], "8.6;9.0"),
        ([(12, 0)], "9.0+PTX"),
        ([(12, 0), (9, 0)], "9.0;9.0+PTX"),
    ],
)
def test_only_the_present_cards_are_compiled_for(
    setup: ModuleType, cards: list[tuple[int, int]], architectures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = setup.build_settings(cards, KNOWN, 16, {})
    assert found == {"MAX_JOBS": "16", "TORCH_CUDA_ARCH_LIST": architectures}
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    monkeypatch.setenv("MAX_JOBS", found["MAX_JOBS"])
    flags = cpp_extension._get_cuda_arch_flags()
    wanted = {name.removesuffix("+PTX").replace(".", "") for name in architectures.split(";")}
    assert {number for flag in flags for number in re.findall(r"code=sm_(\d+)", flag)} == wanted
    assert any("code=compute_" in flag for flag in flags) == ("+PTX" in architectures)


def test_what_the_user_sets_counts(setup: ModuleType) -> None:
    given = {"TORCH_CUDA_ARCH_LIST": "7.5", "MAX_JOBS": "2"}
    assert setup.build_settings([(9, 0)], KNOWN, 16, given) == {}
    assert setup.build_settings([], KNOWN, 16, {}) == {"MAX_JOBS": "16"}
