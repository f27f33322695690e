"""The benchmarks' harness, and small runs of `head` and `loader`. No test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import harness, head, loader, summary, table2
from benchmarks import report as report_benchmark
from benchmarks.harness import Claim, Report, Settings, aligned, alternate, main, peak_bytes, quantity, ratio
from dmf.config import EvaluationConfig, ExperimentConfig

ROOM = 96 * 2**20
"""Bytes of the allocation whose peak is measured."""


@pytest.fixture(autouse=True)
def _small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "GEMM_SIZE", {"cpu": 64})
    monkeypatch.setattr(harness, "COPY_BYTES", {"cpu": 2**16})


@pytest.mark.parametrize(
    ("bound", "measured", "holds"),
    [
        ({"at_least": 3.0}, 3.0, True),
        ({"at_least": 3.0}, 2.99, False),
        ({"at_most": 0.25}, 0.25, True),
        ({"at_most": 0.25}, 0.26, False),
        ({"at_most": 0.0}, 0.0, True),
        ({"at_least": 1.0}, float("nan"), False),
        ({"at_most": 1.0}, float("nan"), False),
    ],
)
def test_a_claim_holds_up_to_its_bound(bound: dict[str, float], measured: float, holds: bool) -> None:
    claim = Claim("it", measured, **bound)
    assert claim.holds is holds
    assert claim.json() | {"measured": 0} == {"name": "it", "measured": 0, **bound, "holds": holds, "seen": "any"}


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_claim_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one bound"):
        Claim("it", 1.0, **bounds)


def calls(trace: list[str], *names: str) -> dict[str, Callable[[], object]]:
    return {name: lambda name=name: trace.append(name) for name in names}


def test_variants_alternate_after_the_warm_up() -> None:
    trace: list[str] = []
    times = alternate(calls(trace, "a", "b"), repeats=3, warmup=2)
    assert trace == list("aabb" + "ababab")
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert min(min(values) for values in times.values()) >= 0


def test_rounds_and_warm_up_by_name() -> None:
    trace: list[str] = []
    times = alternate(calls(trace, "a", "b", "c"), repeats={"a": 1, "b": 3, "c": 2}, warmup={"b": 1})
    assert trace == list("b" + "abc" + "bc" + "b")
    assert [len(times[name]) for name in "abc"] == [1, 3, 2]


@pytest.mark.parametrize("repeats", [0, {"a": 0}])
def test_nothing_to_measure_is_refused(repeats) -> None:
    with pytest.raises(ValueError, match="one of each"):
        alternate(calls([], "a"), repeats)
    with pytest.raises(ValueError, match="one of each"):
        alternate({})


def test_ratio_is_the_median_of_the_rounds() -> None:
    assert ratio({"slow": [2.0, 30.0, 12.0], "fast": [1.0, 3.0, 4.0]}, "slow", "fast") == 3.0  # of 2, 10, 3
    assert ratio({"slow": [6.0], "fast": [1.0, 2.0, 9.0]}, "slow", "fast") == 3.0


def test_repeats_are_fewer_in_short() -> None:
    assert Settings().repeats >= 5 > Settings(short=True).repeats


def test_printed_numbers() -> None:
    assert [quantity(88.78e9, "FLOP/s"), quantity(0.0, "s"), quantity(12.345, "x")] == [
        "88.78 GFLOP/s",
        "0.000 s",
        "12.35 x",
    ]
    assert [quantity(3, "B"), quantity(2_500, "B"), quantity("none")] == ["3 B", "2.500 kB", "none"]
    lines = aligned([{"variant": "ours", "s": 1.5}, {"variant": "literal", "s": 20.0, "note": "slow"}])
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["|", "ours", "|", "1.500", "|", "|"]


def measure(report: Report) -> None:
    """A benchmark that measures nothing."""
    print("a library that talks")
    report.times("nothing", {"a": [1.0, 2.0, 3.0]})
    report.state("cost", 2.5, "s")
    report.floor("rate", 1e9, "FLOP/s")
    report.claim("met", 4, at_least=3, unit="x", seen=harness.AVX2)
    report.claim("missed", 4, at_most=3)


def test_json_on_stdout_is_the_contract(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main("nothing", measure, ["--json", "--short", "--threads", "1", "--output", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["claims"] == [
        {"name": "met", "measured": 4.0, "at_least": 3, "holds": True, "seen": "AVX2", "unit": "x"},
        {"name": "missed", "measured": 4.0, "at_most": 3, "holds": False, "seen": "any"},
    ]
    assert (found["subject"], found["short"], found["threads"], found["device"]) == ("nothing", True, 1, "cpu")
    assert found["stated"] == {"cost": {"measured": 2.5, "unit": "s"}}
    assert found["floors"]["rate"]["measured"] == 1e9
    assert found["tables"][0]["rows"][0] == {"variant": "a", "median s": 2.0, "min s": 1.0, "max s": 3.0, "repeats": 3}
    assert {"cpu", "cores", "memory", "gpu", "python", "torch", "torchvision", "date"} <= set(found["machine"])
    assert json.loads((tmp_path / "a.json").read_text()) == found
    assert "a library that talks" in printed.err and "missed: 4.000, at most 3: MISSED" in printed.err


def test_a_miss_is_printed_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("nothing", measure, ["--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 hold, 1 missed." in printed and "MISSED" in printed


def refuse(report: Report) -> None:
    """A benchmark that raises ValueError."""
    raise ValueError("the images are not there")


def test_mistakes_of_the_user_are_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main("nothing", refuse, ["--threads", "1"]) == 2
    assert "the images are not there" in capsys.readouterr().err
    wrong = [["--threads", "0"], ["--repeats"], ["--output", str(tmp_path / "absent" / "a.json")]]
    for arguments in wrong if torch.cuda.is_available() else [*wrong, ["--device", "cuda"]]:
        with pytest.raises(SystemExit) as status:
            main("nothing", measure, arguments)
        assert status.value.code == 2


def filling() -> Callable[[], object]:
    """Hold and free memory, then return a call that fills ROOM twice, one after the other."""
    held = [torch.ones(2**20) for _ in range(ROOM // 2**22)]
    held.clear()

    def call() -> None:
        for _ in range(2):
            torch.ones(ROOM // 4)

    return call


def failing() -> Callable[[], object]:
    raise RuntimeError("no inputs")


def test_peak_memory_of_a_known_allocation() -> None:
    assert peak_bytes(filling, threads=1) == pytest.approx(ROOM, rel=0.05)


def test_a_failed_measurement_of_memory_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"the memory of failing\(\) ended with 1"):
        peak_bytes(failing, threads=1)


def test_head_measures_what_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SIDE", 4)
    monkeypatch.setattr(head, "QUERIES", {"training": 5, "evaluation": 5})
    monkeypatch.setattr(head, "GROUPS", (64,))
    monkeypatch.setattr(harness, "has_bf16", lambda _: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(
        head, "peak_bytes", lambda prepare, variant, *_, **__: {"literal": 60, "ours": 10}.get(variant, 5)
    )
    report = Report("head", Settings(short=True))
    head.run(report)
    bounds = [(claim.at_least, claim.at_most) for claim in report.claims]
    assert bounds == [(35, None), (None, 1.8), (None, 1 / 6), (35, None)]
    assert report.claims[2].measured == 1 / 6 and report.claims[2].holds
    assert all(claim.measured > 0 for claim in report.claims)
    assert {row["variant"] for row in report.tables[0][1]} == {"literal", "ours", "ours bf16", head.SAMPLING}
    monkeypatch.setattr(harness, "has_bf16", lambda _: False)
    report = Report("head", Settings(short=True))
    head.run(report)
    assert len(report.claims) == 4 and not any("bf16" in name for name in (*report.floors, *report.stated))
    assert {row["variant"] for row in report.tables[0][1]} == {"literal", "ours", head.SAMPLING}


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [("AVX512", True, "AVX-512 with bfloat16"), ("AVX512", False, "AVX-512"), ("AVX2", True, "AVX2")],
)
def test_bf16_is_measured_where_there_are_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: str, bf16: bool, expected: str
) -> None:
    """A process that is held to AVX2 has none, whatever its processor has."""
    monkeypatch.setattr(harness, "has_bf16", lambda _: bf16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cpu = torch.device("cpu")
    assert harness.machine_class(cpu) == expected
    assert ("bf16" in harness.precisions(cpu)) is (expected == "AVX-512 with bfloat16")
    assert ("bf16" in harness.state_rates(Report("rates"))) is (expected == "AVX-512 with bfloat16")


def test_head_refuses_to_compare_different_numbers() -> None:
    one = {"scores": torch.ones(3)}
    head._check_equal("head", one, one)
    for other in (torch.ones(3) * 1.001, torch.full((3,), float("nan"))):
        with pytest.raises(RuntimeError, match="scores differs"):
            head._check_equal("head", one, {"scores": other})


def test_floor_of_the_head_by_hand() -> None:
    """One episode, G=64: 80 maps through 25 taps of 18 offsets, 5 through 9 taps of 64 groups."""
    assert head.flops("evaluation", 64, 1) == 2 * 121 * 640 * (80 * 25 * 18 + 5 * 9 * 64)
    assert head.flops("training", 64, 1) == 3 * 2 * 121 * 640 * (35 * 25 * 18 + 5 * 9 * 64 + 30 * 64)


def test_loader_measures_what_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "peak_bytes", lambda *_, **__: 1)
    monkeypatch.setattr(loader, "whole_step", lambda *_: lambda: None)
    monkeypatch.setattr(loader, "COUNTS", {"train": (20, 8), "val": (5, 2), "test": (5, 2)})
    monkeypatch.setattr(loader, "PER_STEP", 2)
    report = Report("loader", Settings(short=True))
    loader.run(report)
    (claim,) = report.claims
    assert claim.name == "loader + augmentation throughput over what the step consumes" and claim.at_least == 3
    ours, consumed = report.stated["loader, ours"]["measured"], report.stated["training step consumes"]["measured"]
    assert claim.measured == pytest.approx(ours / consumed)


def test_summary_has_a_row_per_claim(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = Report("head", Settings(short=True))
    report.claim("fast", 40.0, at_least=35, unit="x")
    report.claim("small", 0.5, at_most=0.25, seen=f"{harness.AVX512}; {harness.AVX2}")
    report.skip("narrow", harness.NO_BF16)
    (line,) = [line for line in report.markdown().splitlines() if "narrow" in line]
    assert "not applicable here" in line and harness.NO_BF16 in line
    (tmp_path / "head.json").write_text(json.dumps(report.json()))
    assert summary.main([str(tmp_path / "head.json")]) == 0
    fast, small, narrow = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| head")]
    assert "40.00x" in fast and "at least 35" in fast and "holds" in fast
    assert "0.500" in small and "at most 0.25" in small and "MISSED" in small and "bfloat16; AVX2" in small
    assert "narrow" in narrow and "not applicable here" in narrow and "MISSED" not in narrow
    assert summary.main([str(tmp_path / "none.json")]) == 2


def test_cost_of_a_training_by_hand() -> None:
    """One FLOP per image: 95 epochs of 1,200 episodes of 35 images, forward and backward, 42 validations, a test."""
    one_shot = table2.cost(ExperimentConfig(), EvaluationConfig(), 1.0)
    assert one_shot.training == 3 * 95 * 1200 * 35
    assert one_shot.validation == 42 * 9_600 and one_shot.validation_by_episodes == 42 * 2000 * 80
    assert one_shot.test == 12_000
    five_shot = table2.cost(ExperimentConfig().replace(episodes__shot=5), EvaluationConfig(), 1.0)
    assert five_shot.training == 3 * 95 * 1200 * 55
    with pytest.raises(ValueError, match="no fixed number of images"):
        table2.cost(ExperimentConfig().replace(data__name="glyphs"), EvaluationConfig(), 1.0)


def test_stages_of_a_report_are_timed(tmp_path: Path) -> None:
    uri, count = report_benchmark.make(tmp_path, 1)
    assert count == 22
    stages = report_benchmark.stages(["--store", str(tmp_path / "runs")], tmp_path)
    assert list(stages) == ["imports", "runs and plan", "records and statistics", "rendering", "pages"]
    assert report_benchmark.stages(["--tracking-uri", uri], tmp_path).keys() == stages.keys()
    for name, source in (("ledger", ["--store", str(tmp_path / "runs")]), ("MLflow", ["--tracking-uri", uri])):
        report_benchmark.command(str(tmp_path), source, tmp_path / name)()
    report_benchmark.check_equal(tmp_path / "MLflow", tmp_path / "ledger")
