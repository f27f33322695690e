"""Claims hold, fail or stay undecided as the differences between rows say, in the paper's numbers and in ours."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dmf.config import EvaluationConfig
from orchestrator.report import report
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import SweepPlan, plan
from reports.claims import CLAIMS, Claim, Relation, Says, relations
from reports.fill import gather, tabulate
from reports.judge import Judged, Outcome, _p_holds, by_paper, judge
from reports.layouts import TABLES
from reports.published import ABLATED
from reports.render import claims as render_claims
from reports.statistics.pairs import Estimate
from tests.records_in_memory import InMemory
from tests.records_in_memory import planned as planned_cell

GROUPS = (1, 4, 16, 64)
FIFTY = EvaluationConfig(episodes=50)
BEST = {"say": "64 is best.", "table": "2c", "best": 64}


def claim(**fields: Any) -> Claim:
    return Claim.from_dict({"say": "It is so.", "table": "2c", **fields})


def sweep(seeds: tuple[int, ...] = (0, 1, 2), groups: tuple[int, ...] = GROUPS, **more: Any) -> SweepPlan:
    part = {
        "table": "2c",
        "set": {"data.name": "glyphs", "model.backbone": "conv64f", "model.alignment": 1},
        "grid": {"model.groups": list(groups)},
    }
    spec = spec_from({"name": "s", "seeds": list(seeds), "evaluation": {"episodes": 50}, "parts": [part], **more})
    return plan(spec)


def records_with(planned: SweepPlan, means: dict[int, float], noise: float = 0.002) -> InMemory:
    """Records with these accuracies by groups, which rows and seeds leave a little."""
    records = InMemory()
    episodes = np.random.default_rng(0).normal(0, 0.03, 50)
    for cell in planned.cells:
        groups = cell.config.at("model.groups")
        for seed in cell.seeds:
            own = np.random.default_rng([groups, seed])
            mean = means[groups] + own.normal(0, noise)
            records.tested(cell, mean + episodes + own.normal(0, noise, 50), seed)
    return records


def judged(claims: list[Claim], means: dict[int, float], **asked: Any) -> list[Judged]:
    planned = sweep(**asked)
    return list(judge(claims, [gather(TABLES["2c"], planned.cells, records_with(planned, means))]))


RISING = {1: 0.50, 4: 0.55, 16: 0.60, 64: 0.65}


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"above": [64, 1]}, Outcome.HOLDS),
        ({"above": [1, 64]}, Outcome.FAILS),
        ({"best": 64}, Outcome.HOLDS),
        ({"best": 16}, Outcome.FAILS),
        ({"worst": 1}, Outcome.HOLDS),
        ({"worst": 4}, Outcome.FAILS),
        ({"falls": [64, 16, 4, 1]}, Outcome.HOLDS),
        ({"falls": [64, 4, 16]}, Outcome.FAILS),
        ({"saturates": 64}, Outcome.NOT_TESTED),  # no larger row would show it
        ({"saturates": 16}, Outcome.FAILS),
        ({"gain": {"of": [64, 1], "by": 0.15}}, Outcome.HOLDS),
        ({"gain": {"of": [64, 1], "by": 0.05}}, Outcome.FAILS),
    ],
)
def test_a_claim_is_judged_by_the_differences(fields: dict[str, Any], outcome: Outcome) -> None:
    (each,) = judged([claim(**fields)], RISING, seeds=(0, 1, 2, 3, 4))
    assert each.ours is outcome, each.evidence


def test_gains_saturate_where_a_larger_row_adds_nothing() -> None:
    flat = {1: 0.50, 4: 0.55, 16: 0.60, 64: 0.60}
    (each,) = judged([claim(saturates=16)], flat, seeds=(0, 1, 2, 3, 4))
    assert each.ours is Outcome.HOLDS
    assert "groups 64 of 64 channels − groups 16 of 64 channels" in each.evidence
    assert "claimed: below 0.5" in each.evidence


def test_a_claim_that_noise_hides_is_undecided_and_says_what_it_takes() -> None:
    planned = sweep(seeds=(0, 1))
    records = records_with(planned, {1: 0.60, 4: 0.601, 16: 0.602, 64: 0.61}, noise=0.008)
    (each,) = judge([claim(above=[64, 1])], [gather(TABLES["2c"], planned.cells, records)])
    assert each.ours is Outcome.UNDECIDED
    assert each.more_seeds is not None and each.more_seeds > 0
    plural = "s" if each.more_seeds > 1 else ""
    assert render_claims.outcome(each) == f"undecided, about {each.more_seeds} more seed{plural}"


def test_the_seeds_that_a_claim_takes_are_counted_from_what_it_must_be_told_from() -> None:
    def more_seeds(ahead: float, **fields: Any) -> int:
        planned = sweep(seeds=(0, 1), groups=(1, 64))
        records = records_with(planned, {1: 0.60, 64: 0.60 + ahead}, noise=0.006)
        (each,) = judge([claim(**fields)], [gather(TABLES["2c"], planned.cells, records)])
        assert each.ours is Outcome.UNDECIDED and each.more_seeds is not None
        return each.more_seeds

    def of_gain(ahead: float, by: float) -> int:
        return more_seeds(ahead, gain={"of": [64, 1], "by": by})

    # How far a gain is from the one claimed is what counts, not how far it is from 0.
    assert of_gain(0.0128, by=0.0128) == of_gain(0.0, by=0.0) > of_gain(0.0128, by=0.0)
    # A claim that a row is above fails once the difference is told from the margin, which is above 0: −0.53 points, as
    # noise makes it, is farther from that than +0.57 is from 0.
    assert more_seeds(-0.003, above=[64, 1]) < more_seeds(0.008, above=[64, 1])


def test_claims_that_repeat_a_tables_rows_take_its_seeds() -> None:
    """All of them will be adjusted together once they have these, so they are counted while they have one."""
    planned = sweep(seeds=(0,))
    records = records_with(planned, {1: 0.60, 4: 0.611, 16: 0.612, 64: 0.613})
    gathered = gather(TABLES["2c"], planned.cells, records)
    rows = [cell.to_baseline for cell in tabulate(gathered).sections[0].cells if cell.to_baseline]
    asked = [row.more_seeds for row in rows if row.more_seeds is not None]
    claims = [claim(above=[groups, 1]) for groups in GROUPS[1:]]
    assert len(asked) == 3 and [each.more_seeds for each in judge(claims, [gathered])] == asked


def test_one_seed_decides_no_claim() -> None:
    (each,) = judged([claim(above=[64, 1])], RISING, seeds=(0,))
    assert each.ours is Outcome.UNDECIDED
    assert (each.p_holds, each.p_fails) == (None, None)
    assert "(these two models, 1 seed)" in each.evidence


def test_a_claim_about_rows_that_are_not_planned_is_not_tested() -> None:
    (each,) = judged([claim(above=[64, 1])], RISING, groups=(1, 4))
    assert each.ours is Outcome.NOT_TESTED
    assert each.evidence == "groups 64: not planned"


def claims_of_methods(seeds: dict[str, tuple[int, ...]], *claims: Claim) -> tuple[Judged, ...]:
    """Claims about Table 1 with rows of these seeds, each a point below the one before."""
    records, cells = InMemory(), []
    for number, (method, those) in enumerate(seeds.items()):
        backbone = {} if method == "raw_pixels" else {"model__backbone": "conv64f"}
        cells.append(planned_cell("1", FIFTY, those, model__method=method, **backbone))
        for seed in those:
            own = np.random.default_rng([number, seed])
            records.tested(cells[-1], 0.6 - 0.01 * number + own.normal(0, 0.002) + own.normal(0, 0.01, 50), seed)
    return judge(claims, [gather(TABLES["1"], cells, records)])


def test_a_row_without_a_backbone_is_compared_on_either_side() -> None:
    seeds = {"dmf": (0, 1, 2), "proto_net": (0, 1, 2), "raw_pixels": (0,)}
    pairs = (["proto_net", "raw_pixels"], ["raw_pixels", "proto_net"])
    one, other = claims_of_methods(seeds, *(claim(table="1", above=pair) for pair in pairs))
    assert (one.ours, other.ours) == (Outcome.HOLDS, Outcome.FAILS)
    assert one.evidence.startswith("ProtoNet − raw pixels, cosine: ") and "no row" not in one.evidence


def test_what_keeps_a_claim_from_being_tested_is_said() -> None:
    """More results do not pair rows of other seeds; they do test a row that is not planned."""
    seeds = {"dmf": (0, 1), "proto_net": (2, 3)}
    pairs = (["dmf", "proto_net"], ["dmf", "feat"])
    found = claims_of_methods(seeds, *(claim(table="1", above=pair) for pair in pairs))
    told = "DMF − ProtoNet: not paired: the other row has other seeds"
    assert [each.hindrance for each in found] == [told, ""]
    console = Console(record=True, width=200)
    console.print(render_claims.to_terminal(found))
    text = console.export_text()
    assert f"- It is so. (miniImageNet, 5-way 1-shot, Conv4) not tested: {told}\n- 1 more not tested, for want" in text


def test_a_claim_may_fail_by_the_rows_that_there_are() -> None:
    (each,) = judged([claim(falls=[4, 16, 640])], RISING, seeds=(0, 1, 2, 3, 4))
    assert each.ours is Outcome.FAILS
    (each,) = judged([claim(falls=[16, 4, 640])], RISING, seeds=(0, 1, 2, 3, 4))
    assert each.ours is Outcome.NOT_TESTED


def test_a_claim_about_the_papers_channels_is_not_tested_on_others() -> None:
    (each,) = judged([claim(saturates=64, as_published=True)], RISING)
    assert each.ours is Outcome.NOT_TESTED


def test_a_claim_about_other_shots_is_not_tested_and_keeps_the_papers_numbers() -> None:
    (each,) = judged([claim(saturates=160, shots=[5])], RISING)
    assert (each.ours, each.where, each.published) == (Outcome.NOT_TESTED, "", Outcome.HOLDS)
    assert "groups 160 − groups 64: +0.54" in each.published_evidence


def test_more_claims_make_each_harder_to_decide() -> None:
    one = judged([claim(above=[64, 16])], RISING)[0]
    many = judged([claim(above=[64, 16]), claim(best=64), claim(worst=1)], RISING)[0]
    assert one.p_holds is not None and many.p_holds is not None and one.p_holds < many.p_holds


def test_p_of_one_sided_hypotheses_by_hand() -> None:
    estimate = Estimate(mean=0.02, error=0.01, freedom=np.inf)
    assert estimate.p_at_most(0.0) == pytest.approx(0.0227501319, abs=1e-9)  # P(Z > 2)
    assert estimate.p_at_least(0.005) == pytest.approx(0.9331927987, abs=1e-9)  # P(Z > -1.5)
    assert estimate.p_at_most(0.02) == pytest.approx(0.5)


def test_what_each_kind_says_of_pairs() -> None:
    rows = (1, 4, 16)
    assert relations(claim(best=16), rows) == [Relation(16, 1), Relation(16, 4)]
    assert relations(claim(worst=1), rows) == [Relation(4, 1), Relation(16, 1)]
    assert relations(claim(falls=[4, 16, 1]), rows) == [Relation(4, 16), Relation(16, 1)]
    assert relations(claim(saturates=4), rows) == [Relation(4, 1), Relation(16, 4, Says.NOT_ABOVE)]
    assert relations(claim(gain={"of": [4, 1], "by": 0.01}), rows) == [Relation(4, 1, Says.BY, 0.01)]


PAPER = {
    "Dynamic sampling helps.": "holds",
    "Removing the last pooling helps.": "holds",
    "One group is worst.": "holds",
    "Gains saturate at 64 groups in 1-shot tasks.": "holds",
    "Gains saturate at 160 groups in 5-shot tasks.": "holds",
    "One alignment beats none.": "holds",
    "One alignment adds 1.28 points in 1-shot tasks.": "fails",
    "One alignment adds 0.77 points in 5-shot tasks.": "fails",
    "More fixed alignments hurt in 5-shot tasks.": "holds",
    "The ODE is best.": "holds",
    "DMF beats ProtoNet.": "not tested",
    "DMF beats CAN.": "holds",
    "DMF beats FEAT.": "holds",
}


def by_the_paper(each: Claim, shots: tuple[int, ...], place: tuple[str, str] = ABLATED) -> tuple[Outcome, str]:
    return by_paper(each, TABLES[each.table], *place, 5, shots)


def test_the_papers_own_numbers_contradict_two_of_its_claims() -> None:
    found = {each.say: by_the_paper(each, each.shots or (1, 5)) for each in CLAIMS}
    assert {say: str(outcome) for say, (outcome, _) in found.items()} == PAPER
    assert found["One alignment adds 1.28 points in 1-shot tasks."][1] == "alignments 1 − alignments 0: +3.06"
    assert found["One alignment adds 0.77 points in 5-shot tasks."][1] == "alignments 1 − alignments 0: +1.90"
    assert found["DMF beats CAN."][1] == "DMF − CAN: +3.91 (1-shot, ResNet-12); DMF − CAN: +3.27 (5-shot, ResNet-12)"


def test_the_papers_numbers_are_compared_with_one_backbone_only() -> None:
    """DMF has 67.76 with ResNet-12, ProtoNet 49.42 with Conv4; FEAT has 65.10 with WRN-28 and 66.78 with ResNet-12."""
    nothing = (Outcome.NOT_TESTED, "no two of its rows are published together with one backbone")
    beats_proto_net, beats_feat = (claim(table="1", above=["dmf", other]) for other in ("proto_net", "feat"))
    assert by_the_paper(beats_proto_net, (1,)) == nothing
    assert by_the_paper(claim(table="1", falls=["dmf", "classifier_baseline", "proto_net"]), (1,)) == nothing
    assert by_the_paper(beats_feat, (1,)) == (Outcome.HOLDS, "DMF − FEAT: +0.98 (ResNet-12)")
    told = "DMF − FEAT: +0.98 (ResNet-12 on miniImageNet)"
    assert by_the_paper(beats_feat, (1,), ("glyphs", "conv64f")) == (Outcome.HOLDS, told)
    for best, backbone, others in (("dmf", "resnet12", 5), ("relation_net", "conv4_relu", 3)):
        said, evidence = by_the_paper(claim(table="1", best=best), (1,), ("mini_imagenet", backbone))
        assert said is Outcome.HOLDS and evidence.count("−") == others, evidence
        assert evidence.count("(Conv4)" if best == "relation_net" else "(ResNet-12)") == others
    for place in (("mini_imagenet", "conv64f"), ("mini_imagenet", "wrn28")):  # its first place is another source's
        assert by_the_paper(claim(table="1", above=["centroid_alignment", "proto_net"]), (1,), place) == nothing


def test_a_claim_does_not_hold_by_the_paper_while_it_lacks_some_number() -> None:
    said, evidence = by_the_paper(claim(table="1", falls=["dmf", "feat", "meta_baseline"]), (1,))
    assert said is Outcome.NOT_TESTED
    assert evidence == "DMF − FEAT: +0.98 (ResNet-12); FEAT − Meta-Baseline: not published together (ResNet-12)"
    said, _ = by_the_paper(claim(table="1", falls=["feat", "dmf", "meta_baseline"]), (1,))
    assert said is Outcome.FAILS


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "claims.0: give one of above, best, worst, saturates, falls, gain; got none"),
        ({"best": 64, "worst": 1}, "got best, worst"),
        ({"above": [64, "many"]}, "claims.0: model.groups cannot be 'many'"),
        ({"best": 64, "table": "2d"}, "claims.0.table: no part fills table 2d; the parts fill 2c"),
        ({"bets": 64}, "claims.0.bets: no such name; did you mean best?"),
        ({"gain": {"of": [64, 1], "bye": 0.1}}, "claims.0.gain.bye: no such name; did you mean by?"),
    ],
)
def test_a_wrong_claim_is_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        sweep(claims=[{"say": "x", "table": "2c", **fields}])
    assert told in str(error.value)


def test_the_report_judges_the_papers_claims_and_the_sweeps_own(tmp_path) -> None:
    planned = sweep(claims=[BEST])
    console = Console(record=True, width=100)
    paths = report(planned, records_with(planned, RISING), tmp_path, console=console)
    text = console.export_text()
    assert "64 is best. (glyphs, 5-way 1-shot, Conv4) holds" in text
    assert "12 more not tested, for want of results" in text
    names = {path.name for path in paths}
    assert {"claims.md", "claims.csv", "claims.json"} <= names
    found = json.loads((tmp_path / "s/claims.json").read_text())
    assert [each["sentence"] for each in found] == [*(c.say for c in CLAIMS), "64 is best."]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s/claims.csv").read_text())))
    assert [row["ours"] for row in rows] == [each["ours"] for each in found]
    assert (
        "| One group is worst. (section 5, Table 2c) | glyphs, 5-way 1-shot, Conv4 | holds | holds |"
        in (tmp_path / "s/claims.md").read_text()
    )


def test_a_claim_over_variants_must_hold_in_each() -> None:
    part = {
        "table": "2c",
        "set": {"data.name": "glyphs", "model.backbone": "conv64f", "model.alignment": 1},
        "grid": {"model.groups": [1, 64], "training.learning_rate": [0.1, 0.2]},
    }
    planned = plan(spec_from({"name": "s", "seeds": [0, 1, 2], "evaluation": {"episodes": 50}, "parts": [part]}))
    records = InMemory()
    for cell in planned.cells:
        up = cell.config.training.learning_rate == 0.1
        for seed in cell.seeds:
            own = np.random.default_rng([cell.config.at("model.groups"), seed, up])
            mean = 0.6 if (cell.config.at("model.groups") == 64) == up else 0.5
            records.tested(cell, mean + own.normal(0, 0.002, 50), seed)
    (each,) = judge([claim(above=[64, 1])], [gather(TABLES["2c"], planned.cells, records)])
    assert each.ours is Outcome.FAILS
    assert each.evidence.count("−") >= 2 and "training.learning_rate=0.2" in each.evidence


def test_a_claim_must_hold_against_each_variant_of_the_other_row() -> None:
    """DMF is above the ProtoNet that is trained most like it, and below another one of the same table."""
    means = {"dmf": {0.35: 0.62}, "proto_net": {0.35: 0.58, 0.05: 0.68}}
    parts = [
        {
            "table": "1",
            "set": {"data.name": "glyphs", "model.backbone": "conv64f", "model.method": method},
            "grid": {"training.learning_rate": list(rates)},
        }
        for method, rates in means.items()
    ]
    planned = plan(spec_from({"name": "s", "seeds": [0, 1, 2, 3], "evaluation": {"episodes": 50}, "parts": parts}))
    records = InMemory()
    for number, cell in enumerate(planned.cells):
        mean = means[cell.config.model.method][cell.config.training.learning_rate]
        for seed in cell.seeds:
            own = np.random.default_rng([number, seed])
            records.tested(cell, mean + own.normal(0, 0.002) + own.normal(0, 0.002, 50), seed)
    claims = [claim(table="1", above=["dmf", "proto_net"]), claim(table="1", best="dmf")]
    for each in judge(claims, [gather(TABLES["1"], planned.cells, records)]):
        assert each.ours is Outcome.FAILS, each.evidence
        assert "learning_rate=0.35: +" in each.evidence and "learning_rate=0.05: −" in each.evidence


def test_the_papers_claims_about_all_rows_do_not_hold_without_some_of_them() -> None:
    grids = {"2c": {"model.groups": [1, 64]}, "2d": {"model.alignment": [0, "ode"]}}
    parts = [{"table": table, "grid": grid} for table, grid in grids.items()]
    planned = plan(spec_from({"name": "s", "seeds": [0, 1, 2, 3], "evaluation": {"episodes": 50}, "parts": parts}))
    records = InMemory()
    for cell in planned.cells:
        up = cell.config.at("model.groups") == 64 and cell.config.at("model.alignment") == "ode"
        for seed in cell.seeds:
            own = np.random.default_rng([up, seed])
            records.tested(cell, (0.62 if up else 0.60) + own.normal(0, 0.001, 50), seed)
    gathered = [gather(TABLES[table], planned.cells, records) for table in grids]
    found = {each.sentence: each for each in judge(CLAIMS, gathered) if each.where}
    for sentence, absent in (
        ("One group is worst.", "groups 160: not planned"),
        ("Gains saturate at 64 groups in 1-shot tasks.", "groups 640: not planned"),
        ("The ODE is best.", "alignments 3: not planned"),
    ):
        assert found[sentence].ours is Outcome.NOT_TESTED and absent in found[sentence].evidence
        assert "+2.0" in found[sentence].evidence, "what there is is shown"


def test_a_gain_holds_only_if_the_interval_beside_it_is_within_the_margin() -> None:
    """1.28 points within 0.5, with an error of 0.28: one-sided p 0.038, and an interval that reaches 1.83."""
    by = Relation(1, 0, Says.BY, 0.0128)
    estimate = Estimate(mean=0.0128, error=0.0028, freedom=200.0)
    assert _p_holds(by, estimate, 0.005) == pytest.approx(2 * 0.03782, abs=1e-4)
    low, high = float(estimate.low), float(estimate.high)
    assert low < 0.0078 and high > 0.0178
