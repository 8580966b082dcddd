"""`reinfuse explore`: the same numbers as `reinfuse retreat`, and the page in a real browser."""

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reinfuse.fits.diagnosis.vpc import Vpc
from reinfuse.fits.explore import plots
from reinfuse.fits.explore.page import Page
from reinfuse.fits.explore.prognosis import Forecasts
from reinfuse.fits.explore.second_infusion import ARMS, PATIENTS, SCENARIO_FILE, SECOND, Choice, Laboratory
from reinfuse.fits.explore.views import Views
from reinfuse.fits.forecasting.answer import forecast
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts import explore
from reinfuse.scripts.retreat import retreat

from ..fits import drawn_run, small_cohorts
from . import browser

FIGURES = {"": 2, "patient": 6, "retreatment": 3, "sensitivity": 1}
#: Beginning of a button's label, the file that it saves, and how that begins.
SAVED = [
    ("PNG: Myeloma", "burden.png", b"\x89PNG"),
    ("SVG: Myeloma", "burden.svg", b"<svg"),
    ("Data (CSV): Myeloma", "burden.csv", b"series,x,y"),
    (f"Save {SCENARIO_FILE}", SCENARIO_FILE, b"[[world]]"),
]
DRAWN = """
const graphs = [...document.querySelectorAll(".js-plotly-plot")];
return graphs.length === %d && graphs.every(graph => graph.data && graph.data.length && graph.querySelector("path"));
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run.write(tmp_path_factory.mktemp("explore") / "run", small_cohorts.posed(one=4, two=0), until=400.0)


@pytest.fixture(scope="module")
def laboratory(run):
    return Laboratory(run, seed=4)


class TestNumbers:
    @pytest.mark.parametrize("whose", ["everybody", "one patient"])
    def test_the_page_says_what_the_command_line_says(self, run, laboratory, whose, tmp_path):
        patient = None if whose == "everybody" else laboratory.run.posterior()["posterior"]["patient"].to_numpy()[0]
        choice = Choice(days=45, dose_share=0.5, banked=True, hypotheses=("antigen_loss_fraction",), patient=patient)
        answer = laboratory.answer(choice)
        scenarios = tmp_path / SCENARIO_FILE
        scenarios.write_text(choice.toml)
        out, settings = tmp_path / "out", {"patients": PATIENTS, "draws": PATIENTS, "seed": 4}
        shown = Console(record=True, width=100)
        retreat(run=run.path, out=out, scenarios=scenarios, patient=patient, explain=False, console=shown, **settings)
        outcomes = pd.read_parquet(out / "outcomes.parquet")
        for arm in ARMS:
            own = outcomes[outcomes["scenario"] == arm].reset_index(drop=True)
            assert len(own) == len(answer.outcomes[arm]) > 100
            for column in ("patient", "pfs_days_2", "best_2", "cmax_2"):
                np.testing.assert_array_equal(own[column], answer.outcomes[arm][column])
        table = pd.read_csv(out / "contrasts.csv")
        rows = table[(table["world"] == "stacked") & (table["group"] == "all")].set_index("measure")
        for words in ("gains", "loses", "second PFS to"):
            mine = answer.measure(words)
            for column in ("value", "mc_error"):
                assert mine[column] == pytest.approx(rows.loc[mine["measure"], column], rel=1e-5, abs=1e-9)

    def test_curves_begin_with_the_cells_that_bridging_left(self, laboratory):
        some, few = (laboratory.answer(Choice(bridging=share)) for share in (1.0, 0.1))
        left = np.nanmedian(few.burden[SECOND][:, 0]) / np.nanmedian(some.burden[SECOND][:, 0])
        assert left == pytest.approx(0.1, rel=0.2)
        assert (few.cart[SECOND][:, 3:10].max(axis=1) > 0).all()

    def test_a_figures_data_are_its_points(self):
        drawn = plots.figure(plots.band([0, 1], [[1, 2], [3, 4], [5, 6]], "arm", "#0072B2", "abc"), x="x", y="y")
        table = plots.numbers(drawn)
        assert table["series"].tolist() == ["arm, a"] * 2 + ["arm, c"] * 2 + ["arm"] * 2
        assert table["y"].tolist() == [1, 2, 5, 6, 3, 4]

    def test_bars_come_with_their_intervals(self):
        rows = pd.DataFrame({"parameter": ["a", "b"], "value": [2.0, -1.0], "low": [1.5, -1.5], "high": [3.0, -0.5]})
        table = plots.numbers(plots.bars(rows, "index")).set_index("y")
        np.testing.assert_allclose(table.loc[["a", "b"], ["x", "low", "high"]], rows[["value", "low", "high"]])

    def test_a_band_ends_at_the_limit_of_quantification(self):
        rows = {"dvid": "cart", "stratum": "one", "corrected": False, "percentile": 0.5, "day": [7.0, 28.0]}
        rows |= {"observed": [9.0, 3.0], "lower": [4.0, np.nan], "predicted": [8.0, np.nan], "upper": [20.0, 2.0]}
        empty = pd.DataFrame()
        found = Vpc(
            percentiles=pd.DataFrame({**rows, "limit": 1.0}), blq=empty, points=empty, studies=1, dropped=0.0, failed=0
        )
        table = plots.numbers(plots.predictive(found, "cart", "one")).set_index("series")
        assert table.loc["50% simulated, 2.5 %", "y"].tolist() == [4.0, 1.0]
        assert table.loc["50% simulated, 97.5 %", "y"].tolist() == [20.0, 2.0]
        assert table.loc["50% simulated", "y"].isna().tolist() == [False, True]

    def test_a_patients_name_is_one_word_of_the_command(self):
        assert "--patient 'one patient'" in Choice(patient="one patient").command("run", 1)


def test_without_dash_the_message_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(explore, "find_spec", lambda _: None)
    with pytest.raises(ReinfuseError, match=r"pip install 'reinfuse\[explore\]'"):
        explore.command(run.path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_forecast_of_the_page_is_that_of_the_command_line(run, tmp_path):
    known = 30.0
    forecasts = Forecasts(run, seed=5)
    patient = run.posterior()["posterior"]["patient"].to_numpy()[0]
    shown = forecasts.of(patient, known)
    words = shlex.split(forecasts.command(shlex.quote(str(run.path)), patient, known, shown.until))
    said = forecast(
        Path(words[2]), Path(words[3]), until=shown.until, out=tmp_path / "out", progress=lambda *_: nullcontext(int),
        patient=patient, seen_until=known, with_benefit=False, seed=int(words[words.index("--seed") + 1]),
    )  # fmt: skip
    assert words[words.index("--seen-until") + 1] == "30"
    assert "--seen-until" not in forecasts.command("run", patient, None, 400.0)
    assert len(shown.table) > 10
    pd.testing.assert_frame_equal(shown.table, said.tables["progression"])
    assert [words for words in shown.words if "Do not trust" in words] == [
        f"Do not trust this forecast: {doubt}." for doubt in said.doubts
    ]
    assert said.doubts  # the run of this test has no diagnostics
    assert forecasts.of(patient, known) is shown
    assert (shown.table["probability"].diff()[1:] >= 0).all()
    traces = plots.prognosis(shown.table)["data"]
    np.testing.assert_array_equal(traces[-1]["y"], shown.table["probability"])


def test_indices_stand_above_the_command_that_made_them(run, laboratory, tmp_path):
    folder, command = tmp_path / "gsa", "reinfuse sensitivity --prior --outcome pfs1 --method sobol --out gsa"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"command": command}))
    row = {"outcome": "pfs1", "index": "total", "parameter": "rho", "value": 0.5, "lower": 0.4, "upper": 0.6}
    pd.DataFrame([row]).to_csv(folder / "indices.csv", index=False)
    page = Page(views=Views(run, 1, folder), laboratory=laboratory, run="run")
    assert command in json.dumps(page.sensitivity(), default=lambda part: part.to_plotly_json())


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "http://127.0.0.1:80/"), ("::1", "http://[::1]:80/"), ("me", "http://me:80/")]
)
def test_an_address_can_be_opened_as_it_is_printed(host, address):
    assert explore.address_of(host, 80) == address


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    """Address of the page."""
    said = tmp_path_factory.mktemp("served") / "said.txt"
    port = browser.free_port()
    words = [sys.executable, "-m", "reinfuse.scripts.main", "explore", str(run.path), f"--port={port}", "--no-browser"]
    with said.open("w") as file:
        server = subprocess.Popen(words, stdout=file, stderr=file, env=dict(os.environ))
    try:
        browser.wait_for(f"http://127.0.0.1:{port}/", 120, server=server, said=said)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def window(served):
    with browser.Browser() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "all there")
class TestPage:
    @pytest.mark.parametrize("width", [1280, 390])
    @pytest.mark.parametrize("view", FIGURES)
    def test_a_view_shows_its_figures_and_asks_nothing_of_the_network(self, window, served, view, width):
        window.open(served + view, width)
        window.until(DRAWN % FIGURES[view])
        assert NOTICE in window.run("return document.body.textContent")
        assert window.run("return document.documentElement.scrollWidth") <= width
        asked = window.requested()
        assert asked
        assert [address for address in asked if not address.startswith(served)] == []
        assert window.errors() == []

    def test_the_keyboard_reaches_a_slider_and_moves_the_picture(self, window, served):
        window.open(served + "retreatment")
        window.until(DRAWN % FIGURES["retreatment"])
        picture = (
            "return [...document.querySelectorAll('.js-plotly-plot')].map(g => g.querySelector('svg').innerHTML).join()"
        )
        before = window.run(picture)
        for _ in range(40):
            window.press(browser.TAB)
            if window.run("return document.activeElement.id") == "days":
                break
        assert window.run("return document.activeElement.id") == "days"
        assert window.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        for _ in range(6):
            window.press(browser.RIGHT)
        window.until("return document.getElementById('scenario').textContent.includes('days_after_progression = 90')")
        time.sleep(0.5)  # the scenario's text comes before the picture
        assert window.run(picture) != before
        assert window.errors() == []

    def test_the_buttons_save_files(self, window, served, tmp_path):
        window.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        window.open(served + "retreatment")
        window.until(DRAWN % FIGURES["retreatment"])
        for button, file, begins in SAVED:
            window.run(
                "[...document.querySelectorAll('button')].find(b => (b.ariaLabel || b.textContent).startsWith("
                "arguments[0])).click()",
                button,
            )
            end = time.monotonic() + 30
            while not (tmp_path / file).is_file() and time.monotonic() < end:
                time.sleep(0.05)
            content = (tmp_path / file).read_bytes()
            assert content.startswith(begins), file
            assert len(content) > 200
        assert window.errors() == []

    def test_every_control_has_a_label(self, window, served):
        window.open(served + "retreatment")
        window.until(DRAWN % FIGURES["retreatment"])
        unnamed = window.run(
            "return [...document.querySelectorAll('input:not([aria-hidden]), button')].filter(e => e.offsetParent"
            " && !(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)"
        )
        assert unnamed == []
