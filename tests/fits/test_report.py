"""The report: one file, everything inside, nothing said that the data do not carry; and the two commands."""

import base64
import dataclasses
import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.diagnosis import findings as findings_module
from reinfuse.fits.figures.plates import draw_all
from reinfuse.fits.hypotheses import standing
from reinfuse.fits.report import printing, words
from reinfuse.fits.report.build import build_report, render
from reinfuse.fits.report.retreatment import read_retreatment
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts import diagnose, report
from reinfuse.scripts._shell import NotTrusted, guarded

from . import fake_run

COMPARISON = [
    {"variant": "full", "elpd": -820.1, "difference": 0.0},
    {"variant": "no-exhaustion", "elpd": -819.25, "difference": 0.85},
]


class Page(HTMLParser):
    """Collects addresses, ids, and the words of each section."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.ids, self.sections, self.open = [], [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [(tag, given[name]) for name in ("src", "href", "srcset", "action") if name in given]
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "section":
            self.open.append(given["id"])
            self.sections[given["id"]] = ""

    def handle_endtag(self, tag):
        if tag == "section":
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.sections[self.open[-1]] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    fake = fake_run.make(n_patients=9, draws=400)
    return fake_run.write(tmp_path_factory.mktemp("report") / "myrun", fake=fake, comparison=COMPARISON)


@pytest.fixture(scope="module")
def found(run):
    return findings_module.examine(run)


@pytest.fixture(scope="module")
def html(run, found):
    return build_report(run, found).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def with_verdict(found, symbol, word, contraction):
    judged = found.judged.copy()
    judged.loc[judged["symbol"] == symbol, ["verdict", "contraction"]] = [word, contraction]
    return dataclasses.replace(found, judged=judged)


class TestPage:
    def test_it_asks_nothing_of_the_network(self, html, page):
        for tag, address in page.addresses:
            assert address.startswith(("data:", "#")), (tag, address[:80])
        assert not re.search(r"url\(|@import|<script|https?://", html)

    def test_every_link_inside_leads_somewhere(self, page):
        assert {address[1:] for tag, address in page.addresses if tag == "a"} <= set(page.ids)

    def test_the_notice_opens_and_closes_the_page(self, html):
        body = re.sub(r"<[^>]+>", "", html.split("<body>")[1])
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        assert lines[0] == lines[-1] == "Research software: not a medical device, never a dosing recommendation."

    def test_all_sections_are_there(self, page):
        assert list(page.sections) == [
            "summary", "cohort", "diagnostics", "unmoved", "parameters", "fits", "checks", "yardsticks",
            "variants", "chains", "limits", "methods", "provenance",
        ]  # fmt: skip
        assert all(text.strip() for text in page.sections.values())

    def test_every_figure_has_words_for_those_who_cannot_see_it(self, html):
        images = re.findall(r"<img [^>]*>", html)
        assert len(images) >= 12
        assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)

    def test_the_unmoved_parameter_is_named(self, page):
        assert "kX" in page.sections["unmoved"]
        assert "ASSUMED" in page.sections["unmoved"]
        assert "k and KE" in page.sections["unmoved"]

    def test_verdict_numbers_and_variants_are_printed(self, page, found):
        assert "The fit converged" in page.sections["summary"]
        assert f"{found.diagnostics.max_rhat:.3f}" in page.sections["summary"]
        assert "no-exhaustion" in page.sections["variants"]
        assert "tie" in page.sections["variants"]
        assert "synthetic draws (tests)" in page.sections["provenance"]
        assert "7" in page.sections["provenance"]

    def test_what_was_not_compared_is_said(self, found):
        bare = {key: value for key, value in found.provenance.items() if key != "comparison"}
        bare_found = dataclasses.replace(found, provenance=bare, hypotheses=standing(bare))
        page = Page(render(bare_found, name="x", plates=[]))
        assert "host T-cell dysfunction: NOT compared" in page.sections["variants"]
        assert "is a tie" not in page.sections["variants"]

    def test_without_comparison_and_hypotheses_the_section_is_left_out(self, found):
        bare = {key: value for key, value in found.provenance.items() if key != "comparison"}
        page = Page(render(dataclasses.replace(found, provenance=bare, hypotheses=[]), name="x", plates=[]))
        assert "variants" not in page.sections
        assert ("a", "#variants") not in page.addresses

    def test_names_cannot_break_the_page(self, found):
        html = render(found, name="<script>alert(1)</script>", plates=[])
        assert "<script>" not in html
        assert "&lt;script&gt;" in html

    def test_the_same_findings_give_the_same_page(self, found):
        one, two = (render(found, name="x", plates=itertools.islice(draw_all(found), 2)) for _ in range(2))
        assert one == two
        assert one.count("<img ") == 2

    def test_a_run_with_little_in_it_still_gives_a_page(self, found):
        tree = found.tree.copy()
        for group in ("prior", "posterior_predictive", "curves"):
            del tree[group]
        empty = pd.DataFrame()
        bare = dataclasses.replace(
            found, tree=tree, judged=empty, observations=empty, coverage=empty, blq=empty, medians=empty
        )
        page = Page(render(bare, name="bare"))
        assert "converged" in page.sections["summary"]


class TestWords:
    def test_a_mechanism_is_not_named_when_only_the_prior_speaks(self, page):
        for section in ("summary", "diagnostics", "yardsticks", "limits"):
            assert "exhaust" not in page.sections[section].lower(), section
        assert "no evidence for them and none against them" in page.sections["summary"]

    def test_it_is_named_when_the_data_moved_it(self, found):
        said = words.on_exhaustion(with_verdict(found, "kX", "partly", 0.4).judged)
        assert "exhaustion" in said
        assert "40 %" in said

    @pytest.mark.parametrize(
        ("source", "printed"),
        [
            ("READ: a paper", "READ: a paper"),
            (
                "2e12 Owens (READ); 1e12-1e13 general (RECALLED)",
                "2e12 Owens (READ); recalled and unchecked, not shown",
            ),
            ("1e11 (RECALLED)", "recalled and unchecked, not shown"),
        ],
    )
    def test_recalled_numbers_are_not_printed_as_sources(self, source, printed):
        assert words.printable_source(source) == printed

    def test_no_recalled_clause_reaches_the_page(self, page, found):
        clauses = [
            clause.strip() for source in found.summary["source"] for clause in source.split(";") if "RECALLED" in clause
        ]
        assert clauses
        for text in page.sections.values():
            assert not any(clause in text for clause in clauses)

    def test_a_fit_that_did_not_converge_is_not_praised(self, found):
        bad = dataclasses.replace(
            found,
            diagnostics=dataclasses.replace(
                found.diagnostics, converged=False, max_rhat=1.3, advice=["Draw more, by all means."]
            ),
        )
        html = render(bad, name="x", plates=[])
        page = Page(html)
        assert "did not converge; do not use" in page.sections["summary"]
        assert "Draw more, by all means." in page.sections["diagnostics"]
        assert 'class="verdict bad"' in html

    def test_methods_say_what_was_done_and_whose_it_is(self, page, found):
        said = page.sections["methods"]
        assert f"Measurements of {found.cohort.n_patients} patients" in said
        assert f"{found.diagnostics.n_chains} chains of {found.diagnostics.n_draws} kept draws" in said
        assert "seed 7" in said
        for name, year in set(re.findall(r"\(?(?:M3, )?(\w+)(?: and others)? (20\d\d)\)", said)):
            assert re.search(rf"{name}(?: and others)? {year}, ", said), f"{name} {year} is not among the works"

    def test_limits_say_what_the_cohort_lacks(self, page):
        assert "No patient of this cohort had a second infusion" in page.sections["limits"]
        assert "no serial M-protein" in page.sections["limits"]

    def test_conflict_and_shrinkage_are_told(self, found):
        judged = found.judged.copy()
        judged.loc[judged["parameter"] == "rho", ["conflict", "shift"]] = [True, -2.4]
        changed = dataclasses.replace(
            found,
            judged=judged,
            shrinkage=pd.DataFrame({"effect": ["dM"], "omega": [1.0], "sd_of_means": [0.2], "shrinkage": [0.8]}),
        )
        assert "2.4 prior sds below" in words.conflicts(changed)[0]
        assert "dM (80 %)" in words.shrinkage(changed)[0]

    @pytest.mark.parametrize(
        ("gap", "error", "word"),
        [
            (5.0, 1.0, "the model forecasts better"),
            (-5.0, 1.0, "the simpler one forecasts better"),
            (-1.0, 1.0, "but the simpler one has the better figures"),
            (1.0, 1.0, "no clear difference"),
        ],
    )
    def test_a_difference_within_its_error_is_no_difference(self, found, gap, error, word):
        line = {"cutoff": 30.0, "rival": "last value", "dvid": "cart", "n": 20, "crps_difference": 0.1 * gap}
        table = pd.DataFrame([line | {"difference": gap, "difference_se": error}])
        changed = dataclasses.replace(found, yardsticks=dataclasses.replace(found.yardsticks, differences=table))
        assert word in words.forecast(changed)[0]

    @pytest.mark.parametrize(
        ("value", "printed"),
        [
            (1234567, "1,234,567"), (0.0, "0"), (24738.2, "24,700"), (6.21e10, "6.21e10"),
            (0.01234, "0.0123"), (2e-5, "2.00e-5"), (np.nan, "–"), (None, "–"), ("words", "words"),
            (np.int64(12), "12"), (0.999, "0.999"),
        ],
    )  # fmt: skip
    def test_numbers(self, value, printed):
        assert words.number(value) == printed


class TestCommands:
    def test_diagnose_writes_its_files_and_prints_the_verdict(self, run, capsys):
        diagnose.command(run.path, figures=True, svg=False)
        printed = capsys.readouterr().out
        for part in (
            "The fit is converged",
            "largest R-hat",
            "kX",
            "k and KE are aliased",
            "Stein 2019,",
        ):
            assert part in printed
        assert run.diagnostics()["converged"] is True
        assert "contraction" in run.summary().columns
        names = {file.name for file in run.figures.glob("*.png")}
        assert {"progression.png", "contraction.png", "chains_1.png", "individual_cart_1.png"} <= names

    def test_a_fit_not_to_be_trusted_is_saved_and_said(self, tmp_path, capsys):
        fake = fake_run.make(n_patients=4, draws=60)
        posterior = fake.tree["posterior"].to_dataset()
        posterior["population"][2, :, 0] *= 2
        fake.tree["posterior"] = posterior
        run = fake_run.write(tmp_path / "run", fake=fake)
        with pytest.raises(NotTrusted, match=r"R-hat up to .*Chain 2 stands apart"):
            diagnose.command(run.path, figures=False, svg=False)
        assert run.diagnostics()["converged"] is False
        assert guarded(lambda: report.command(run.path)) == 3
        assert "did not converge" in (run.path / "report.html").read_text(encoding="utf-8")
        assert "do not trust it" in capsys.readouterr().err

    @pytest.mark.parametrize("command", [lambda path: diagnose.command(path, figures=True, svg=False), report.command])
    def test_what_is_not_a_run_is_refused_and_left_alone(self, tmp_path, command, capsys):
        (tmp_path / "notes.txt").write_text("mine")
        assert guarded(lambda: command(tmp_path)) == 2
        assert "not a run folder" in capsys.readouterr().err
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


class TestPrinting:
    def test_without_a_browser_nothing_is_done_and_the_remedy_is_said(self, run, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert guarded(lambda: report.command(run.path, pdf=tmp_path / "report.pdf")) == 2
        said = capsys.readouterr().err
        assert "chromium" in said
        assert "install one" in said
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(
        all(shutil.which(name) is None for name in printing.BROWSERS), reason="no browser to print with"
    )
    def test_a_page_becomes_a_pdf_of_a4(self, html, tmp_path):
        page = tmp_path / "page.html"
        page.write_text(
            re.sub(r"data:image/png;base64,[^\"]*", "data:,", html), encoding="utf-8"
        )  # its words print faster
        printing.print_pdf(page, tmp_path / "page.pdf")
        content = (tmp_path / "page.pdf").read_bytes()
        assert content.startswith(b"%PDF")
        width, height = map(float, re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content).groups())
        assert (width, height) == pytest.approx((595.3, 841.9), abs=1.0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "page.pdf"]

    def test_a_browser_that_does_not_print_is_told_of(self, tmp_path, monkeypatch):
        broken = tmp_path / "chromium"
        broken.write_text("#!/bin/sh\necho no display >&2\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        with pytest.raises(ReinfuseError, match="no display"):
            printing.print_pdf(tmp_path / "page.html", tmp_path / "page.pdf")
        assert not (tmp_path / "page.pdf").exists()


#: One white pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/x8AAwMCAO+ip1sAAAAASUVORK5CYII="


@pytest.fixture
def experiment(tmp_path):
    """A folder as `reinfuse retreat` leaves it, with little in it."""
    folder = tmp_path / "retreat"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "waterfall.png").write_bytes(base64.b64decode(PNG))
    record = {
        "kind": "retreat",
        "cohort_sha256": "a" * 64,
        "source": "posterior of the run myrun",
        "words": {"Which arm": ["The second product gains 7.4 months."]},
        "caveats": ["The hypotheses are assumptions of the scenario."],
    }
    (folder / "run.json").write_text(json.dumps(record))
    row = {
        "scenario": "sequential",
        "group": "all",
        "unit": "proportion",
        "n": 99,
        "low": 0.5,
        "high": 0.7,
        "mc_error": 0,
    }
    rows = [
        row | {"world": world, "course": course, "measure": "ORR", "value": value}
        for world, course, value in (("stacked", 1, 0.11), ("stacked", 2, 0.62), ("as assumed", 2, 0.33))
    ]
    pd.DataFrame([*rows, rows[1] | {"group": "durable", "value": 0.77}]).to_csv(folder / "summary.csv", index=False)
    return folder


class TestSecondInfusions:
    def test_an_experiment_is_shown_in_figures_and_words(self, found, experiment):
        html = render(found, name="r", plates=[], retreatment=read_retreatment(experiment))
        section = Page(html).sections["retreatment"]
        assert "0.62" in section
        assert not {"0.11", "0.33", "0.77"} & set(section.split()), "the second course of everybody, stacked, alone"
        assert "gains 7.4 months" in section
        assert "assumptions of the scenario" in section
        assert NOTICE in section
        assert PNG in html

    def test_without_one_there_is_no_section(self, found):
        page = Page(render(found, name="r", plates=[]))
        assert "retreatment" not in page.ids
        assert ("a", "#retreatment") not in page.addresses

    def test_that_of_another_cohort_is_refused(self, experiment):
        with pytest.raises(ReinfuseError, match="another cohort"):
            read_retreatment(experiment, cohort_sha256="b" * 64)
        assert read_retreatment(experiment, cohort_sha256="a" * 64).source

    def test_what_is_no_experiment_is_refused(self, tmp_path, experiment):
        with pytest.raises(ReinfuseError, match="cannot be read"):
            read_retreatment(tmp_path)
        (experiment / "run.json").write_text('{"kind": "sensitivity"}')
        with pytest.raises(ReinfuseError, match="'sensitivity'"):
            read_retreatment(experiment)
