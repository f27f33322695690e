"""The CUDA sources compiled for a CPU; fibers are the threads of a block (`emulated_cuda/cuda_runtime.h`)."""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = {
    "dynamic_sampling": ("sample_taps", "sample_taps_backward"),
    "aligned_score": ("aligned_score", "aligned_score_of_rows", "aligned_score_backward"),
}
LAUNCHES = {"dynamic_sampling": 3, "aligned_score": 5}
LAUNCH = re.compile(r"(\w+<[^;]*?>)\s*<<<(.*?),\s*current_stream\(device\)>>>\((.*?)\);", re.DOTALL)
SHARED = "alignas(16) unsigned char shared[1 << 16];"
"""The shared memory of the block that runs."""


def emulated_source(name: str) -> str:
    """A CUDA source with launches as calls, and operators `dmf_emulated::...` for CPU tensors."""
    source = (ROOT / f"csrc/{name}.cu").read_text()
    source, launches = LAUNCH.subn(_launch, source)
    assert launches == LAUNCHES[name]
    for text, instead in (
        ("const torch::stable::accelerator::DeviceGuard guard(device);", ""),
        ("STD_CUDA_KERNEL_LAUNCH_CHECK();", ""),
        ("extern __shared__ __align__(16) unsigned char shared[];", ""),
        ("STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library)", "STABLE_TORCH_LIBRARY_IMPL(dmf_emulated, CPU, library)"),
        (
            f'#include "{name}.h"\n',
            f'#include "{name}.h"\n\nnamespace dmf {{ namespace {{ {SHARED} }} }}\n',
        ),
    ):
        assert text in source
        source = source.replace(text, instead)
    return source


def _launch(found: re.Match[str]) -> str:
    kernel, sizes, arguments = found.groups()
    blocks, threads, bytes_ = sizes.split(", ")
    return f"emulated::launch({blocks}, {threads}, shared, {bytes_}, [&] {{ {kernel}({arguments}); }});"


def load(folder: Path) -> None:
    """Compile into `folder`, and register the operators of OPERATORS in `torch.ops.dmf_emulated`."""
    library = folder / "emulated.so"
    for name in OPERATORS:
        (folder / f"{name}.cpp").write_text(emulated_source(name))
    includes = [ROOT / "tests/emulated_cuda", ROOT / "csrc", *map(Path, cpp_extension.include_paths())]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-w", *(f"-I{path}" for path in includes)]
    torch_libraries = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_cpu", "-lc10"]
    sources = [str(folder / f"{name}.cpp") for name in OPERATORS]
    command = ["g++", *flags, *sources, "-o", str(library), *torch_libraries]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    operators = torch.library.Library("dmf_emulated", "DEF")
    for name in (name for names in OPERATORS.values() for name in names):
        schema = str(getattr(torch.ops.dmf, name).default._schema)
        operators.define(schema.partition("::")[2])
    _kept.append(operators)
    torch.ops.load_library(library)
    _libraries.append(ctypes.CDLL(str(library)))


@contextlib.contextmanager
def other_order() -> Iterator[None]:
    """Blocks, and the threads of each, run in the opposite order: sums that depend on it come out differently."""
    _libraries[-1].emulated_order(1)
    try:
        yield
    finally:
        _libraries[-1].emulated_order(0)


_kept: list[torch.library.Library] = []
"""Operators are there for as long as what defined them."""
_libraries: list[ctypes.CDLL] = []
