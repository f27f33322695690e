"""Which code and which libraries a number comes from."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import platform
import re
import subprocess
import tokenize
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS_START = ("training", "evaluation")
"""Modules of dmf that make a record's numbers; with them goes what they import."""
NUMBERLESS = frozenset({"files", "operators", "provenance", "records", "values", "watchdog"})
"""Modules that carry numbers and make none."""
_parsed = functools.cache(ast.parse)


@functools.cache
def code_hash() -> str:
    """16 hexadecimal digits of what makes a number: dmf as far as training and evaluation import it, and csrc.

    Two records of equal hashes come from the same code. Comments, docstrings and blank lines do not count.
    """
    found = hashlib.sha256()
    for path in sorted(_modules()):
        found.update(f"{path.relative_to(HERE)}\n{_bare(path.read_text(encoding='utf-8'))}\n".encode())
    for path in sorted(HERE.parent.glob("csrc/*")):
        found.update(f"{path.name}\n{_bare_cpp(path.read_text(encoding='utf-8'))}\n".encode())
    return found.hexdigest()[:16]


def _modules() -> set[Path]:
    """Files of the modules that make numbers."""
    found: set[Path] = set()
    waiting = [HERE / f"{name}.py" for name in NUMBERS_START]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file() or path.stem in NUMBERLESS:
            continue
        found.add(path)
        for node in ast.walk(_parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dmf":
                base = HERE.joinpath(*node.module.split(".")[1:])
                names = [base, *(base / alias.name for alias in node.names)]
                waiting += [name.with_suffix(".py") for name in names] + [base / "__init__.py"]
    return found - {HERE / "__init__.py"}


def _bare(source: str) -> str:
    """Python source without comments, docstrings and blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _bare_cpp(source: str) -> str:
    """C++ source without comments and blank lines."""
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in source.splitlines() if line.strip())


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a number can depend on."""
    installed = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "torchdiffeq", "numpy", "pillow"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def cpu_name() -> str:
    """The processor's model."""
    models = re.findall(r"^model name\s*: (.+)$", cpuinfo(), re.MULTILINE)
    return models[0] if models else platform.machine()


def cpuinfo() -> str:
    """What Linux says of the processors; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def git_commit() -> str | None:
    """The commit of this code, "+changes" behind it for an unclean tree; None where it is not in a repository."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True)

    try:
        tracked = git("ls-files", "--error-unmatch", __file__)
    except FileNotFoundError:  # git is not installed
        return None
    if tracked.returncode:  # installed, perhaps inside another repository
        return None
    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", str(HERE.parent)).stdout.strip()
    return head.stdout.strip() + ("+changes" if changes else "")
