"""MLflow's own pages in a real browser: what a user sees of a sweep at the address that it prints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.selftest.sweeps import Tracking
from orchestrator.tracking.names import EXPERIMENT
from tests.sites import Site
from tests.tiny import tiny_sweep

pytestmark = pytest.mark.full
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000
"""For a page to show something, on a slow and busy machine."""
PARTS = """
  - table: 2d
    grid: {model.alignment: [0, ode]}
  - table: 2c
    trials: [{model.groups: 1, training.learning_rate: 1.0e+30}]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A sweep with two trainings and one that diverges, mirrored on a server that still runs."""
    folder = tmp_path_factory.mktemp("ui")
    site = Site(folder, tiny_sweep("tiny", "two trainings, and one that diverges", PARTS, epochs=2), False)
    with Tracking(folder / "server") as server:
        assert site.run("--tracking-uri", server.uri) == 0, site.said
        yield site


@pytest.fixture
def page(swept: Site) -> Iterator[Any]:
    """A page of a browser that knows no earlier visit."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def address(site: Site) -> str:
    """Where the sweep said that its runs are."""
    (found,) = re.findall(r"^MLflow: (\S+)$", site.said, re.MULTILINE)
    return found


def runs(site: Site) -> dict[str, Run]:
    client = MlflowClient(address(site).partition("/#/")[0])
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def of_run(site: Site, name: str, tab: str = "") -> str:
    """The address of a page about one run."""
    run = runs(site)[name].info
    server = address(site).partition("/#/")[0]
    return f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}{tab}"


def test_the_printed_address_opens_on_the_runs_with_names_and_statuses(swept: Site, page: Any) -> None:
    page.goto(address(swept))
    page.get_by_role("heading", name="Runs", exact=True).wait_for()
    assert page.get_by_text("Detect Issues").count() == 0  # of the page for language models
    parent = page.get_by_role("link", name="tiny", exact=True)
    parent.wait_for()
    parent.locator("xpath=ancestor::*[contains(@class, 'ag-cell')][1]").locator("button").first.click()
    for name in ("2d ODE, 1-shot, seed 0", "2d 0, 1-shot, seed 0", "2c 1, 1-shot, seed 0"):
        page.get_by_role("link", name=name, exact=True).wait_for()


def test_one_that_diverged_is_no_success(swept: Site, page: Any) -> None:
    page.goto(of_run(swept, "2c 1, 1-shot, seed 0"))
    page.get_by_text("Failed", exact=True).wait_for()
    assert page.get_by_text("Finished", exact=True).count() == 0
    page.get_by_text("the loss is not finite at step").first.wait_for()


def test_test_accuracy_is_drawn_as_a_bar(swept: Site, page: Any) -> None:
    page.goto(of_run(swept, "2d ODE, 1-shot, seed 0", "/model-metrics"))
    page.get_by_text("test_accuracy", exact=False).first.wait_for()
    page.locator(".barlayer .bars").first.wait_for()
    accuracy = runs(swept)["2d ODE, 1-shot, seed 0"].data.metrics["test_accuracy/5way_1shot"]
    page.locator(".barlayer").get_by_text(f"{accuracy:.2g}").first.wait_for()


def test_the_sweeps_run_shows_its_report_and_its_results(swept: Site, page: Any) -> None:
    page.goto(of_run(swept, "tiny", "/artifacts/report/index.html"))
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Table 2d: Alignment, glyphs").first.wait_for()
    report.get_by_text("diverged at step").first.wait_for()
    page.goto(of_run(swept, "tiny", "/model-metrics"))
    page.get_by_text("2d 5-way 1-shot").first.wait_for()
    page.locator(".barlayer .bars").first.wait_for()


def test_the_sweep_left_its_report_in_mlflow_as_it_wrote_it(swept: Site) -> None:
    run = runs(swept)["tiny"]
    client = MlflowClient(address(swept).partition("/#/")[0])
    in_mlflow = Path(client.download_artifacts(run.info.run_id, "report/index.html")).read_text()
    assert in_mlflow == (swept.folder / "results" / "tiny" / "index.html").read_text()
