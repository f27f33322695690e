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
