"""The code and the libraries that a number comes from."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmf.config import AnyTraining

HERE = Path(__file__).parents[1]
"""The folder of the package `dmf`."""
CSRC = HERE.parent / "csrc"
DEVICES = ("cpu", "cuda")
"""Device types, which run different code."""
NUMBERLESS = frozenset(
    {
        *("config", "values", "records", "files", "checkpoints", "provenance", "watchdog", "library"),
        *("layouts", "cache", "checks", "copies", "glyphs", "known", "sources", "survey"),
    }
)
"""Modules, and folders of modules, that `code_hash` leaves out, because the record states the outcome of their work:
the configuration, the data fingerprint over pixels and classes, and the record itself."""
_parsed = functools.cache(ast.parse)


def code_hash(config: AnyTraining, device: str) -> str:
    """A hash, in 16 hexadecimal digits, of the code behind a training's numbers on `device`, "cpu" or "cuda".

    It covers training, evaluation, the method, the backbone, the modules that these import, and the C++ source of
    their operators (on a GPU also the CUDA source). Folders, comments, docstrings and blank lines do not count, so
    moving a file, changing another method or editing a comment leaves the hash as it is.
    """
    return _hash_of(_roots(config), device == "cuda")


def code_hashes(config: AnyTraining) -> dict[str, str]:
    """`code_hash` of a training by device type."""
    roots = _roots(config)
    return {device: _hash_of(roots, device == "cuda") for device in DEVICES}


def _roots(config: AnyTraining) -> tuple[str, ...]:
    """The modules that a training starts from, including those that are imported by name at run time."""
    roots = dict.fromkeys(["dmf.training.run", "dmf.evaluation.evaluate"])
    for each in (config, *config.stages):
        if each.kind == "pretraining":
            roots |= dict.fromkeys(["dmf.training.pretraining", f"dmf.backbones.{each.model.backbone}"])
            continue
        roots |= dict.fromkeys([each.model.stage_module, f"dmf.methods.{each.model.method}.model"])
        if each.model.backbone_name:
            roots[f"dmf.backbones.{each.model.backbone_name}"] = None
        if each.weights != (None, None):
            roots["dmf.weights"] = None
    return tuple(roots)


@functools.cache
def _hash_of(roots: tuple[str, ...], cuda: bool) -> str:
    paths = _modules(roots)
    texts = [f"{path.stem}\n{_bare(path.read_text(encoding='utf-8'))}\n" for path in paths]
    sources = _sources({path.stem for path in paths}, cuda)
    texts += [f"{path.name}\n{_bare_cpp(path.read_text(encoding='utf-8'))}\n" for path in sources]
    return hashlib.sha256("".join(sorted(texts)).encode()).hexdigest()[:16]


def _modules(roots: tuple[str, ...]) -> set[Path]:
    """Files of the modules `roots` and of all modules that they import, without NUMBERLESS ones."""
    found: set[Path] = set()
    waiting = [path for root in roots if (path := _path_of(root))]
    while waiting:
        path = waiting.pop()
        if path in found or path.name == "__init__.py" or NUMBERLESS & {path.stem, *path.relative_to(HERE).parts}:
            continue
        found.add(path)
        tree = _parsed(path.read_text(encoding="utf-8"))
        unused = {id(node) for block in _type_checking(tree) for node in ast.walk(block)}
        for node in ast.walk(tree):
            if id(node) not in unused and isinstance(node, ast.Import | ast.ImportFrom):
                waiting += [other for name, _ in _imported(node) if (other := _path_of(name))]
    return found


def _path_of(module: str) -> Path | None:
    """The file of a module in `dmf`; None for other modules."""
    package, *names = module.split(".")
    base = HERE.joinpath(*names)
    candidates = (base.with_suffix(".py"), base / "__init__.py") if package == "dmf" else ()
    return next((path for path in candidates if path.is_file()), None)


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """The modules that an import statement names, each with the import written without folders."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, f"import {alias.name.rpartition('.')[2]} as {alias.asname}"
        return
    for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        if _path_of(whole):
            yield whole, f"import {alias.name} as {alias.asname}"
        else:
            module = (node.module or "").rpartition(".")[2]
            yield node.module or "", f"from {module} import {alias.name} as {alias.asname}"


def _type_checking(tree: ast.AST) -> list[ast.If]:
    """The blocks under `if TYPE_CHECKING`, which only type checkers read."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    return [block for block in blocks if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"]


def _bare(source: str) -> str:
    """Python source without comments, docstrings, blank lines, imports for types and the folders of dmf's modules."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    tree = _parsed(source)

    def put(node: ast.stmt, text: str) -> None:
        lines[node.lineno - 1 : node.end_lineno] = [text] + [""] * ((node.end_lineno or node.lineno) - node.lineno)

    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            put(node, "")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = list(_imported(node))
            if any(_path_of(module) for module, _ in named):
                put(node, " " * node.col_offset + "; ".join(sorted(text for _, text in named)))
    for block in _type_checking(tree):
        put(block, "")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _sources(modules: set[str], cuda: bool) -> set[Path]:
    """Source files of the operators with the names of `modules`, and the headers that they include."""
    suffixes = (".cpp", ".cu") if cuda else (".cpp",)
    found: set[Path] = set()
    waiting = [CSRC / f"{name}{suffix}" for name in modules for suffix in suffixes]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        included = re.findall(r'^\s*#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        waiting += [path.parent / name for name in included]
    return found


def _bare_cpp(source: str) -> str:
    """C++ source without comments and blank lines."""
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in source.splitlines() if line.strip())


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a number can depend on."""
    installed = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "torchdiffeq", "numpy", "pillow"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


COMMIT = "COMMIT"
"""The file in which a copy of the code, which is no repository, keeps the commit that it was made from."""


def git_commit() -> str | None:
    """The commit of this code, with "+changes" if the working tree is not clean; None if it is not known."""
    kept = HERE.parent / COMMIT
    if kept.is_file():
        return kept.read_text(encoding="utf-8") or None

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
