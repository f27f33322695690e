"""The libraries of compiled operators that setup.py builds beside this file."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch

logger = logging.getLogger("dmf")


def _load_libraries() -> frozenset[str]:
    """Load the libraries that exist, and return the device types they serve.

    A library that exists but does not load is an ImportError: the definitions would serve, but slowly and silently.
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
                f"{path} does not load with PyTorch {torch.__version__} ({error}); install dmf again or delete the file"
            ) from error
        loaded.add(device)
    return frozenset(loaded)


@functools.cache
def say_which(what: str, device: str) -> None:
    """Log, once for each pair of arguments, whether `what` runs compiled on a device type."""
    if device in COMPILED:
        logger.info("%s on %s: compiled operator", what, device)
    else:
        logger.warning(
            "%s on %s: PyTorch definition (slower); with a compiler, `pip install .` or `python setup.py build_ext "
            "--inplace` builds the operator",
            what,
            device,
        )


COMPILED = _load_libraries()
"""Device types with compiled operators; elsewhere the PyTorch definitions serve."""
