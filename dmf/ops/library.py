"""Loads the libraries of compiled operators that setup.py builds beside this file."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch

logger = logging.getLogger("dmf")


def _load_libraries() -> frozenset[str]:
    """Load the libraries that exist, and return the device types that they support.

    Raises ImportError if a library exists but does not load, since falling back to the slow definitions would hide it.
    """
    libraries = {"cpu": "_C", "cuda": "_C_cuda"}
    if torch.version.cuda is None:
        del libraries["cuda"]
    loaded = set()
    for device, name in libraries.items():
        path = Path(__file__).with_name(f"{name}.abi3.so")
        if not path.exists():
            continue
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise ImportError(
                f"{path} does not load with PyTorch {torch.__version__} ({error}); reinstall dmf or delete the file"
            ) from error
        loaded.add(device)
    return frozenset(loaded)


@functools.cache
def say_which(what: str, device: str) -> None:
    """Log, once per pair of arguments, whether `what` runs compiled on a device type."""
    if device in COMPILED:
        logger.info("%s on %s: compiled operator", what, device)
    else:
        logger.warning(
            "%s on %s: PyTorch definition (slower); to build the operator, run `pip install .` or `python setup.py "
            "build_ext --inplace` with a compiler installed",
            what,
            device,
        )


COMPILED = _load_libraries()
"""Device types with compiled operators; others use the PyTorch definitions."""
