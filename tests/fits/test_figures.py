"""Figures: drawn is what was given, nothing is cut off, matplotlib's own settings stay as they were."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reinfuse.fits.diagnosis import convergence, identifiability, predictive
from reinfuse.fits.diagnosis.scalars import list_scalars, stack
from reinfuse.fits.figures import chains, individual, parameters, style, survival
from reinfuse.fits.figures import predictive as predictive_figures

from . import fake_run


@pytest.fixture(scope="module")
def fake():
    return fake_run.make(n_patients=14, draws=120)


@pytest.fixture(scope="module")
def observations(fake):
    return predictive.per_observation(fake.tree)


@pytest.fixture(scope="module")
def draws(fake):
    array = fake.tree["posterior_predictive"]["y"].transpose("chain", "draw", "observation")
    return array.values.reshape(-1, array.sizes["observation"])


def fits(fake, observations, dvid="cart", **changes):
    curves = fake.tree["curves"].to_dataset()
    given = {
        "times": curves["time"].values,
        "curves": curves[dvid].values,
        "patients": fake.patients,
        "observations": observations,
        "dvid": dvid,
        "products": dict(zip(fake.patients, fake.products, strict=True)),
        "progressions": {"SYN002": 150.0},
        "infusions": {"SYN003": (0.0, 90.0)},
    }
    return individual.individual_fits(**{**given, **changes})


def texts(figure):
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(loc) for loc in ("left", "center", "right")]
        found += [axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return [text for text in found if text]


def cut_off(figure):
    """Texts that reach over the edge of the figure."""
    canvas = FigureCanvasAgg(figure)
    with matplotlib.rc_context(style.RC):
        canvas.draw()
        renderer = canvas.get_renderer()
        width, height = figure.canvas.get_width_height()
        artists = [text for legend in figure.legends for text in legend.get_texts()]
        for axes in figure.axes:
            if axes.get_visible():
                artists += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
                low, high = sorted(axes.get_xlim())
                artists += [t.label1 for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = [(a.get_text(), a.get_window_extent(renderer)) for a in artists if a.get_text()]
    return [text for text, box in boxes if box.x0 < -2 or box.y0 < -2 or box.x1 > width + 2 or box.y1 > height + 2]


def every_figure(fake, observations, draws):
    posterior = fake.tree["posterior"].to_dataset()
    scalars = list_scalars(posterior)
    judged = identifiability.judge(fake.tree)
    after, before = stack(posterior, scalars).values, stack(fake.tree["prior"].to_dataset(), scalars).values
    values = posterior["individual"].values
    yield from fits(fake, observations, "sbcma")
    yield predictive_figures.observed_against_predicted(observations)
    yield predictive_figures.residuals_over_time(observations)
    for dvid in ("cart", "sbcma", "transgene"):
        yield predictive_figures.predictive_check(observations, draws, dvid)
    yield from parameters.prior_against_posterior(
        names=[s.name for s in scalars], units=[s.unit for s in scalars],
        transforms=[s.transform for s in scalars],
        prior=before.reshape(-1, len(scalars)), posterior=after.reshape(-1, len(scalars)),
        contraction=judged["contraction"].tolist(), verdict=judged["verdict"].tolist(),
    )  # fmt: skip
    yield parameters.contraction_chart(judged)
    yield from parameters.individual_effects(
        draws=values.reshape(-1, *values.shape[2:]), patients=fake.patients, effects=list(fake_run.EFFECTS),
        units=["1/d", "d", "cells/uL", "cells", "-"], positive=[True] * 5, products=list(fake.products),
    )  # fmt: skip
    rhat = convergence.scalar_table(posterior).set_index("parameter")["rhat"]
    yield from chains.traces_and_ranks(
        names=[s.name for s in scalars], draws=after, rhat=[rhat.get(s.name, np.nan) for s in scalars]
    )
    yield survival.survival_curves(groups(), title="Progression")


def groups():
    time = np.array([30.0, 60.0, 90.0, 120.0, 200.0])
    at = np.linspace(0, 200, 21)
    share = np.exp(-0.004 * at)
    return [
        survival.Group(label="ide-cel", time=time, event=np.array([1, 0, 1, 1, 0], bool), at=at,
                       predicted=share,                       lower=share - 0.05, upper=share + 0.05),
        survival.Group(label="cilta-cel", time=time + 10, event=np.zeros(5, bool)),
    ]  # fmt: skip


def test_no_figure_cuts_its_words_off_and_settings_are_left_alone(fake, observations, draws):
    before = dict(matplotlib.rcParams)
    figures = list(every_figure(fake, observations, draws))
    assert dict(matplotlib.rcParams) == before
    assert len(figures) == 2 + 2 + 3 + 1 + 1 + 2 + 3 + 1
    for figure in figures:
        assert figure.get_suptitle()
        assert figure.get_figwidth() == style.WIDTH
        assert cut_off(figure) == [], figure.get_suptitle()


def test_the_check_for_words_cut_off_sees_a_planted_one(observations):
    figure = predictive_figures.observed_against_predicted(observations)
    figure.axes[0].set_xlabel("far too long for a third of the page " * 3)
    assert len(cut_off(figure)) == 1


def test_no_figure_module_pulls_in_pyplot():
    code = (
        "import sys; from reinfuse.fits.figures import chains, individual, parameters, predictive, style;"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestIndividualFits:
    def test_twelve_patients_to_a_page_and_only_those_with_the_assay(self, fake, observations):
        pages = fits(fake, observations)
        assert [sum(axes.get_visible() for axes in page.axes) for page in pages] == [12, 2]
        some = observations[observations["patient"].isin(fake.patients[:3])]
        (page,) = fits(fake, some)
        assert sum(axes.get_visible() for axes in page.axes) == 3
        assert fits(fake, observations[observations["dvid"] == "sbcma"]) == []

    def test_censored_values_are_triangles_at_their_limit(self, fake, observations):
        name = observations.loc[observations["cens"] > 0, "patient"].iloc[0]
        rows = observations[(observations["patient"] == name) & (observations["dvid"] == "sbcma")].copy()
        rows["cens"] = [1, -1, *[0] * (len(rows) - 2)]
        (page,) = fits(fake, rows, "sbcma")
        marks = {line.get_marker(): line for line in page.axes[0].lines if line.get_linestyle() == "None"}
        for marker, flag in (("o", 0), ("v", 1), ("^", -1)):
            expected = rows[rows["cens"] == flag]
            np.testing.assert_array_equal(marks[marker].get_xdata(), expected["time"])
            np.testing.assert_array_equal(marks[marker].get_ydata(), expected["value"])
        assert marks["v"].get_markerfacecolor() == "white"

    def test_the_middle_line_is_the_median_of_the_draws(self, fake, observations):
        page = fits(fake, observations)[0]
        line = next(line for line in page.axes[0].lines if line.get_linestyle() == "-" and line.get_marker() == "None")
        curves = fake.tree["curves"]["cart"].values[:, 0]
        np.testing.assert_allclose(line.get_ydata(), np.median(curves, axis=0))
        assert page.axes[0].get_yscale() == "log"

    def test_progression_and_a_second_infusion_are_marked(self, fake, observations):
        page = fits(fake, observations)[0]
        dashed = [line.get_xdata()[0] for line in page.axes[1].lines if line.get_linestyle() == "--"]
        dotted = [line.get_xdata()[0] for line in page.axes[2].lines if line.get_linestyle() == ":"]
        assert (dashed, dotted) == ([150.0], [90.0])
        assert {"progression", "further infusion"} <= set(texts(page))

    def test_a_patient_whose_solver_failed_is_said_so(self, fake, observations):
        curves = fake.tree["curves"]["cart"].values.copy()
        curves[:, 0] = np.nan
        assert "solver failed" in texts(fits(fake, observations, curves=curves)[0])

    def test_units_stand_on_the_page(self, fake, observations):
        page = fits(fake, observations, "transgene")[0]
        assert "copies/µg DNA" in page.get_suptitle()
        assert page.axes[9].get_xlabel() == "days since the first infusion"


class TestPredictiveFigures:
    def test_every_measurement_is_drawn_once(self, observations):
        figure = predictive_figures.observed_against_predicted(observations)
        drawn = sum(
            len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_linestyle() == "None"
        )
        assert drawn == len(observations)

    def test_residuals_leave_censored_rows_out(self, observations):
        figure = predictive_figures.residuals_over_time(observations)
        points = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
        assert sum(len(line.get_xdata()) for line in points) == (observations["cens"] == 0).sum()

    def test_the_check_shows_observed_medians_and_shares(self, fake, observations, draws):
        figure = predictive_figures.predictive_check(observations, draws, "sbcma")
        own = observations[(observations["dvid"] == "sbcma") & (observations["product"] == "ide-cel")]
        window = own[own["window"] == "day 21 to 45"]
        at = float(window["since"].median())
        medians = next(line for line in figure.axes[1].lines if line.get_linestyle() == "-")
        shares = next(line for line in figure.axes[3].lines if line.get_linestyle() == "-")
        seen = dict(zip(*medians.get_data(), strict=True))
        assert seen[at] == pytest.approx(np.exp(np.median(np.maximum(window["observed"], np.log(1.1)))))
        assert dict(zip(*shares.get_data(), strict=True))[at] == pytest.approx((window["cens"] > 0).mean())

    def test_no_share_lies_outside_the_axis_that_the_products_have_together(self, observations, draws):
        worse = observations.assign(cens=np.where(observations["product"] == "cilta-cel", 1, 0), lloq=1e9)
        figure = predictive_figures.predictive_check(worse, draws, "sbcma")
        for panel in figure.axes[2:]:
            shares = np.concatenate([line.get_ydata() for line in panel.lines])
            assert panel.get_ylim()[1] > shares.max()
            assert all(patch.get_y() + patch.get_height() < panel.get_ylim()[1] for patch in panel.patches)

    def test_m_protein_is_drawn_in_its_own_unit_with_its_offset(self):
        """Fits take ln(P + 0.05): limits are raised by it before, and numbers lowered by it after."""
        limit, value = 0.1, np.array([0.0, 0.1, 1.0, 3.0])
        seen = pd.DataFrame(
            {
                "patient": list("abcd"), "since": 30.0, "window": "day 21 to 45", "dvid": "mprotein",
                "product": "ide-cel", "cens": [0, 1, 0, 0], "lloq": limit,
                "observed": np.log(value + 0.05), "predicted": np.log(value + 0.05),
            }
        )  # fmt: skip
        draws = np.tile(np.log(np.array([0.07, 0.12, 2.0, 3.0]) + 0.05), (5, 1))  # one of four below the limit
        check = predictive_figures.predictive_check(seen, draws, "mprotein")
        values, shares = check.axes
        assert [band.get_y() for band in shares.patches] == pytest.approx([0.25])
        points = np.concatenate([line.get_ydata() for line in values.lines if line.get_marker() in ("o", "v")][:2])
        np.testing.assert_allclose(np.sort(points), [0.005, 0.1, 1.0, 3.0])  # zero: a tenth of the offset
        (median,) = (line.get_ydata() for line in values.lines if line.get_linestyle() == "-")
        wanted = np.exp(np.median(np.log(np.array([limit, limit, 1.0, 3.0]) + 0.05))) - 0.05
        assert median == pytest.approx([wanted])
        scatter = predictive_figures.observed_against_predicted(seen).axes[0]
        drawn = np.concatenate([line.get_xdata() for line in scatter.lines if line.get_linestyle() == "None"])
        np.testing.assert_allclose(np.sort(drawn), [0.005, 0.1, 1.0, 3.0])

    def test_an_assay_with_one_value_has_no_check(self, observations, draws):
        lone = observations[observations["dvid"] == "cart"].head(1)
        assert predictive_figures.predictive_check(lone, draws, "cart") is None


class TestParameterFigures:
    def test_bars_are_contractions_and_fixed_ones_are_left_out(self, fake):
        judged = identifiability.judge(fake.tree)
        figure = parameters.contraction_chart(judged)
        bars = np.concatenate([[bar.get_width() for bar in axes.patches] for axes in figure.axes])
        shown = judged[judged["verdict"] != "fixed"]["contraction"].clip(lower=0)
        np.testing.assert_allclose(bars, sorted(shown, reverse=True))

    def test_a_parameter_that_was_given_has_no_panel(self):
        rng = np.random.default_rng(1)
        moving, fixed = rng.standard_normal((200, 1)), np.full((200, 1), 2.0)
        (figure,) = parameters.prior_against_posterior(
            names=["rho", "KB"], units=["1/d", "cells"], transforms=["log", "log"],
            prior=np.hstack([2 * moving, fixed]), posterior=np.hstack([moving, fixed]),
            contraction=[0.75, float("nan")], verdict=["measured by the data", "fixed"],
        )  # fmt: skip
        shown = texts(figure)
        assert "rho (1/d)" in shown
        assert "75 %" in shown
        assert not any("KB" in text for text in shown)

    def test_individual_intervals_are_quantiles_in_the_order_of_products(self):
        rng = np.random.default_rng(2)
        draws = np.exp(rng.standard_normal((4000, 3, 1)) + np.array([0.0, 1.0, 2.0])[None, :, None])
        (figure,) = parameters.individual_effects(
            draws=draws, patients=["a", "b", "c"], effects=["rho"], units=["1/d"], positive=[True],
            products=["ide-cel", "cilta-cel", "ide-cel"],
        )  # fmt: skip
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a", "c"]
        dots = {}
        for line in figure.axes[0].lines:
            if line.get_marker() == "o":
                dots |= dict(zip(line.get_ydata(), line.get_xdata(), strict=True))
        np.testing.assert_allclose([dots[0], dots[1], dots[2]], np.median(draws[:, [1, 0, 2], 0], axis=0))


def test_ranks_of_a_shifted_chain_leave_the_even_line():
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((4, 500, 2))
    draws[1, :, 1] += 3
    (figure,) = chains.traces_and_ranks(names=["even", "shifted"], draws=draws, rhat=[1.0, 1.6])
    heights = [[patch.get_data().values for patch in figure.axes[i].patches] for i in (1, 3)]
    assert np.abs(np.array(heights[0]) - 1).max() < 0.9
    assert heights[1][1][-1] > 3
    assert "shifted   R-hat 1.600" in texts(figure)


class TestSurvival:
    def test_steps_are_kaplan_meier_and_the_risk_table_counts(self):
        figure = survival.survival_curves(groups(), title="Progression")
        upper, table = figure.axes
        step = next(line for line in upper.lines if line.get_drawstyle() == "steps-post")
        np.testing.assert_allclose(step.get_ydata(), [1, 0.8, 0.8, 0.8 * 2 / 3, 0.8 / 3, 0.8 / 3])
        ticks = upper.get_xticks()
        counts = [text.get_text() for text in table.texts]
        expected = [str(int((group.time >= tick).sum())) for group in groups() for tick in ticks]
        assert counts == expected

    def test_months_and_reference_points(self):
        points = [(180.0, 0.6, 0.4, 0.8)]
        figure = survival.survival_curves(groups(), title="x", months=True, reference=("published", points))
        assert figure.axes[1].get_xlabel() == "months since infusion"
        assert "published" in texts(figure)
        diamond = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
        assert diamond.get_xdata()[0] == pytest.approx(180 / 30.4375)

    def test_a_prediction_alone_needs_no_risk_table(self):
        at = np.linspace(0, 365, 10)
        lone = survival.Group(label="predicted", at=at, predicted=np.exp(-at / 300))
        figure = survival.survival_curves([lone], title="x")
        assert len(figure.axes) == 1
        assert figure.axes[0].get_xlim()[1] == 365


class TestStyle:
    def test_products_keep_their_colours(self):
        assert style.product_colour("ide-cel") == style.BLUE
        assert style.product_colour("cilta-cel", ["a", "cilta-cel"]) == style.VERMILION
        own = [style.product_colour(name, ["mine", "ide-cel", "yours"]) for name in ("mine", "yours")]
        assert len({*own, style.BLUE, style.VERMILION}) == 4
        assert style.product_colour("never named") == style.GREY

    @pytest.mark.parametrize(
        ("low", "high", "answer"),
        [(0.9, 120.0, [1, 10, 100]), (0.4, 6, [0.5, 1, 2, 5]), (7.3, 9.6, [7.5, 8.0, 8.5, 9.0, 9.5])],
    )
    def test_round_numbers(self, low, high, answer):
        assert style.round_numbers(low, high, 5 if high < 10 else 4) == pytest.approx(answer)

    @pytest.mark.parametrize(
        ("value", "answer"),
        [(0.0, "0"), (6.2e10, "6.2e10"), (3e12, "3e12"), (0.015, "0.015"), (84.2, "84"), (2e-4, "2e-4")],
    )
    def test_short_numbers(self, value, answer):
        assert style.short(value) == answer

    def test_days_are_spread_by_their_square_root_and_day_0_is_inside(self):
        figure, (axes,) = style.grid(1, 1, 2.0)
        style.day_axis(axes, 100.0)
        assert axes.get_xlim()[0] < 0
        transform = axes.transData
        x = [transform.transform((day, 0))[0] for day in (0, 25, 100)]
        assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.5)
        assert figure.axes == [axes]

    def test_files_are_the_same_for_the_same_figure(self, tmp_path):
        for name in ("one", "two"):
            style.save(survival.survival_curves(groups(), title="x"), tmp_path, name, svg=True)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
        assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
