"""Imports point one way: between packages, between their rooms, and within each room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = """
dmf.machine
dmf.values dmf.draws
dmf.ops dmf.episodes
dmf.backbones
dmf.methods
dmf.methods.dmf dmf.methods.proto_net dmf.methods.classifier_baseline dmf.methods.baseline dmf.methods.raw_pixels
dmf.methods.can dmf.methods.deepemd dmf.methods.feat dmf.methods.ideme_net
dmf.methods.matching_net dmf.methods.meta_baseline dmf.methods.relation_net
dmf.methods.can_transductive
dmf.methods.baseline_pp dmf.methods.negative_margin dmf.methods.rfs dmf.methods.maml dmf.methods.anil dmf.methods.r2d2
dmf.methods.metaoptnet_ridge dmf.methods.metaoptnet_svm
dmf.methods.fine_tuning dmf.methods.centroid_alignment dmf.methods.adversarial_alignment
dmf.config
dmf.data.layouts
dmf.data
dmf.records
dmf.weights
dmf.evaluation
dmf.training
dmf.released dmf.released_ideme_net dmf.released_associative
dmf.train
dmf.evaluate dmf.classifier dmf.import_config
dmf
reports.statistics
reports
reports.render reports.figures
reports.diff
orchestrator.text
orchestrator.spec
orchestrator.store.bucket
orchestrator.store
orchestrator.tracking
orchestrator.running
orchestrator.costs
orchestrator.differences orchestrator.verify
orchestrator.archive orchestrator.documents orchestrator.report orchestrator.results orchestrator.figures
orchestrator.import_config
orchestrator.sync orchestrator.status orchestrator.prune orchestrator.selftest
orchestrator.forget
orchestrator.sweep
"""
"""Rooms by floor, from the bottom. A room can import only from floors below its own."""
TOP = len(FLOORS.split("\n"))
FLOOR = {room: number for number, line in enumerate(FLOORS.split("\n")) for room in line.split()}


def modules() -> dict[str, Path]:
    paths = [path for package in ("dmf", "reports", "orchestrator") for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def room_of(module: str) -> str:
    """The folder of a module, or the module itself if it is at the top of a package."""
    room = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return module if room in ("dmf", "orchestrator") else room


def imports(module: str) -> Iterator[str]:
    """Our modules that a module imports anywhere, except those for type checkers only."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from (name for name in (whole if whole in MODULES else node.module,) if name in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


ARROWS = {module: sorted(set(imports(module)) - {module}) for module in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_from_its_room_and_the_floors_below(module: str) -> None:
    room = room_of(module)
    upwards = [
        other
        for other in ARROWS[module]
        if room_of(other) not in (room, "dmf", "orchestrator") and FLOOR[room_of(other)] >= FLOOR.get(room, TOP)
    ]
    assert not upwards, f"{module} ({room}) imports {upwards}, which are not on a floor below"


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(module) for module in MODULES} - {"orchestrator"}
    assert rooms == FLOOR.keys()


def test_no_imports_go_round_in_a_circle() -> None:
    done: set[str] = set()

    def follow(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in ARROWS[module]:
                follow(other, (*above, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


def test_the_model_needs_nothing_of_a_sweep() -> None:
    outside = ("ray", "mlflow", "optuna", "pandas", "yaml", "rich", "obstore", "jinja2", "matplotlib")
    for module, path in MODULES.items():
        if module.startswith("dmf") and module != "dmf.data.glyphs":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name.partition(".")[0] for name in names} & set(outside), module
