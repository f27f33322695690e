"""Installation, and the compiled dynamic-sampling operator.

Environment: DMF_NO_EXTENSION=1 installs without it (the PyTorch definition serves); DMF_CUDA=1 compiles the CUDA
kernels where no GPU is visible; CUDA_HOME, TORCH_CUDA_ARCH_LIST and MAX_JOBS as for every PyTorch extension. Without
the last two, the kernels are compiled for the GPUs that are here, on all cores.
`pip install --no-build-isolation .` compiles with the PyTorch that is installed instead of fetching one for the build.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "dmf/__init__.py").read_text()).group(1)
FLAGS = ["-O3", "-g0"]


def build_settings(
    cards: Sequence[tuple[int, int]], known: Sequence[str], cores: int, given: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a build that the user has not `given`: compile for `cards`, on all `cores`.

    `cards` are the compute capabilities of the visible GPUs, and `known` the architectures of this PyTorch, such as
    "sm_90"; a newer card runs what is compiled for the newest of them, translated when it is loaded.
    """
    newest = max((_capability(name) for name in known if name.startswith("sm_")), default=(0, 0))
    names = {f"{card[0]}.{card[1]}" if card <= newest else f"{newest[0]}.{newest[1]}+PTX" for card in cards}
    found = {"MAX_JOBS": str(cores)} | ({"TORCH_CUDA_ARCH_LIST": ";".join(sorted(names))} if names else {})
    return {name: value for name, value in found.items() if name not in given}


def _capability(architecture: str) -> tuple[int, int]:
    """The compute capability of an architecture: sm_90, sm_90a -> (9, 0)."""
    number = int(re.sub(r"\D", "", architecture))
    return number // 10, number % 10


def extensions() -> dict[str, Any]:
    """`dmf.ops._C` (schema, CPU kernels) and, with a CUDA compiler and a use for it, `dmf.ops._C_cuda`."""
    if os.environ.get("DMF_NO_EXTENSION") == "1":
        return {}
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        """Keeps apart the libraries' object files, of equal names, and says what to do when the compiler fails."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                raise RuntimeError(
                    f"dmf's compiled operator could not be built ({error}); a C++20 compiler (g++ 11, clang 14) is "
                    "needed, --no-build-isolation to build with the torch that is installed, or DMF_NO_EXTENSION=1 to "
                    "go without the operator (slower)"
                ) from error

        def build_extension(self, ext: Extension) -> None:
            folder, self.build_temp = self.build_temp, os.path.join(self.build_temp, ext.name)
            super().build_extension(ext)
            self.build_temp = folder

    cards = [torch.cuda.get_device_capability(card) for card in range(torch.cuda.device_count())]
    os.environ.update(build_settings(cards, torch.cuda.get_arch_list(), len(os.sched_getaffinity(0)), os.environ))

    operators = ("dynamic_sampling", "aligned_score")
    headers = ["csrc/sampling.h", "csrc/cuda.cuh", *(f"csrc/{name}.h" for name in operators)]
    common = {"depends": headers, "py_limited_api": True}
    flags = [*FLAGS, "-fopenmp-simd", "-Wno-psabi"]
    sources = [f"csrc/{name}.cpp" for name in operators]
    modules = [CppExtension("dmf.ops._C", sources, extra_compile_args=flags, **common)]
    forced = os.environ.get("DMF_CUDA") == "1"
    if forced and (torch.version.cuda is None or CUDA_HOME is None):
        raise RuntimeError(f"DMF_CUDA=1 needs a PyTorch with CUDA and nvcc; got {torch.version.cuda=}, {CUDA_HOME=}")
    if forced and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        print(
            "no GPU is visible, so the CUDA kernels are compiled for every architecture that this PyTorch knows; set "
            "TORCH_CUDA_ARCH_LIST, such as 9.0 for an H100, to compile for one",
            file=sys.stderr,
        )
    if forced or (CUDA_HOME is not None and torch.version.cuda is not None and torch.cuda.is_available()):
        modules.append(
            CUDAExtension(
                "dmf.ops._C_cuda",
                [f"csrc/{name}.cu" for name in operators],
                extra_compile_args={"cxx": FLAGS, "nvcc": ["-O3"]},
                **common,
            )
        )
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


if __name__ == "__main__":
    setup(
        name="dmf",
        version=VERSION,
        description=(
            "Dynamic Meta-filter few-shot learning: models, training, evaluation, ablation sweeps and their tables"
        ),
        python_requires=">=3.11",
        packages=find_packages(include=["dmf*", "orchestrator*", "reports*"]),
        package_data={
            "orchestrator.spec": ["*.jinja"],
            "reports": ["*.csv", "*.yaml"],
            "reports.render": ["templates/*"],
        },
        install_requires=[
            "torch>=2.11",
            "torchvision>=0.26",
            "torchdiffeq>=0.2.4",
            "numpy>=1.26",
            "pydantic>=2.9,<3",
            "pillow>=10",
            "safetensors>=0.4",
            "scipy>=1.11",
            "pot>=0.9.4",
        ],
        extras_require={
            "sweep": [
                "ray[tune]>=2.50",
                "optuna>=4",
                "mlflow>=3",
                "pandas>=2",
                "pyyaml>=6",
                "rich>=13",
                "psutil>=6",
                "obstore>=0.12",
                "jinja2>=3.1",
                "matplotlib>=3.8",
            ],
            "test": [
                "pytest>=8",
                "pytest-xdist>=3.6",
                "easyfsl>=1.5",
                "moto[s3]>=5",
                "psycopg2-binary>=2.9",
                "ruff>=0.17.6",
                "mypy>=2.4",
                "types-PyYAML>=6",
                "playwright>=1.60",
                "axe-playwright-python>=0.1.8",
            ],
        },
        zip_safe=False,
        **extensions(),
    )
