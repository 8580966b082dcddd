"""The page: four views in the browser, served on loopback, every figure with its data and its command line."""

import json
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from dash import MATCH, Dash, Input, Output, State, ctx, dcc, html

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.model.products import PRODUCTS

from ..figures import style
from ..result_folder import RUN_FILE
from ..retreatment.mechanisms import MECHANISMS
from . import plots
from .prognosis import Forecasts
from .second_infusion import DAYS, MONTHS, PERCENTILES, SCENARIO_FILE, Answer, Choice, Laboratory
from .views import ASSAYS, Views

#: Address, and name in the menu.
VIEWS: Final = {
    "/": "Population",
    "/patient": "Patient",
    "/retreatment": "Retreatment",
    "/sensitivity": "Sensitivity",
}
LABELS: Final = tuple(f"{p:g} %" for p in PERCENTILES)
#: Sliders: name, label, lowest, highest, step, value.
SLIDERS: Final = (
    ("dose_share", "Second dose, share of the product's usual one", 0.25, 2.0, 0.25, 1.0),
    ("days", "Days from progression to the second infusion", 15, 365, 5, 60),
    ("lymphodepletion", "Intensity of lymphodepletion", 0.0, 1.0, 0.1, 1.0),
    ("bridging", "Share of the tumour left by bridging", 0.05, 1.0, 0.05, 1.0),
)
#: Figures of the retreatment view.
SECOND_FIGURES: Final = {
    "burden": "Myeloma cells after the second infusion",
    "cart": "CAR-T cells after the second infusion",
    "pfs2": "Free of progression after the second infusion",
}
#: Days on which a patient may be looked at, as options of the page; None: by all data.
KNOWN: Final[dict[str, float | None]] = {"day 14": 14.0, "day 30": 30.0, "day 90": 90.0, "all data": None}
EVERYBODY: Final = "the population"
BINDER: Final = {"as the products are": None, "the same": True, "another": False}

#: Save buttons and the copy button work in the browser alone.
_SAVE: Final = """
function(png, svg, copy, id) {
  const pressed = window.dash_clientside.callback_context.triggered_id;
  if (!pressed) { return window.dash_clientside.no_update; }
  if (pressed.kind === "copy") {
    navigator.clipboard.writeText(document.getElementById("command-" + id.name).textContent);
    return "copied";
  }
  const graph = document.getElementById("graph-" + id.name).querySelector(".js-plotly-plot");
  window.Plotly.downloadImage(graph, {format: pressed.kind, filename: id.name, width: 900, height: 560});
  return "saved";
}
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """What the page shows, and of which run.

    Attributes
    ----------
    views, laboratory
        Of one run.
    run
        What the run is called in command lines.
    """

    views: Views
    laboratory: Laboratory
    run: str

    @property
    def name(self) -> str:
        """The run's folder as a word of a command line."""
        return shlex.quote(self.run)

    @cached_property
    def forecasts(self) -> Forecasts:
        """Of the run's patients."""
        return Forecasts(self.views.run, seed=self.laboratory.seed)

    def app(self) -> Dash:
        """The Dash application, not yet served."""
        app = Dash(__name__, title="reinfuse explore", update_title="", suppress_callback_exceptions=True)
        css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        app.index_string = (
            '<!DOCTYPE html><html lang="en"><head>{%metas%}<title>{%title%}</title>{%css%}'
            f'<link rel="icon" href="data:,"><style>{css}</style></head>'
            "<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"
        )
        app.layout = html.Div([dcc.Location(id="address"), html.Div(id="page")])
        app.callback(Output("page", "children"), Input("address", "pathname"))(self.at)
        self._savings(app)
        _answering(app, ["vpc"], [Input("stratum", "value")], self._vpc)
        whose = [Input("whose", "value")]
        _answering(app, [*(f"fit_{assay}" for assay in ASSAYS), "risk"], whose, self._patient)
        app.callback(
            Output({"part": "graph", "name": "prognosis"}, "figure"),
            Output("prognosis_words", "children"),
            Output({"part": "command", "name": "prognosis"}, "children"),
            *whose,
            Input("known", "value"),
        )(self._prognosis)
        _answering(app, ["drivers"], [Input("outcome", "value")], self._drivers)
        app.callback(
            *(Output({"part": "graph", "name": name}, "figure") for name in SECOND_FIGURES),
            Output("answer", "children"),
            Output("scenario", "children"),
            *(Output({"part": "command", "name": name}, "children") for name in SECOND_FIGURES),
            *(Input(name, "value") for name in ("second", "first", "banked", "binder", "hypotheses", "continued")),
            *(Input(name, "value") for name, *_ in SLIDERS),
        )(self._second)
        for name, *_ in SLIDERS:
            said = Output(f"{name}_said", "children")
            app.clientside_callback("function(value) { return String(value); }", said, Input(name, "value"))
        app.callback(
            Output("scenario_saved", "data"),
            Input("save_scenario", "n_clicks"),
            State("scenario", "children"),
            prevent_initial_call=True,
        )(lambda _, text: {"content": text, "filename": SCENARIO_FILE})
        return app

    def serve(self, host: str, port: int) -> None:
        """Serve until interrupted."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.app().server.run(host=host, port=port, threaded=True)

    # -------------------------------------------------------------------------------------------- layout

    def at(self, path: str) -> list[Any]:
        """Everything at an address."""
        known = path if path in VIEWS else "/"
        menu = [html.A(name, href=to, className="here" if to == known else "") for to, name in VIEWS.items()]
        made = {"/": self.population, "/patient": self.patient, "/retreatment": self.retreatment}
        try:
            body = made.get(known, self.sensitivity)()
        except ReinfuseError as fault:
            body = [html.P(str(fault), className="fault", role="alert")]
        head = [html.H1(f"{VIEWS[known]}: {Path(self.run).name}"), html.P(NOTICE, className="notice"), html.Nav(menu)]
        return [html.Header(head), html.Main(body)]

    def population(self) -> list[Any]:
        """Predictive check and progression of the cohort."""
        rows = self.views.vpc.percentiles[["dvid", "stratum"]].drop_duplicates()
        options = {f"{r['dvid']}|{r['stratum']}": f"{r['dvid']}: {r['stratum']}" for r in rows.to_dict("records")}
        again = f"reinfuse diagnose {self.name}"
        shown = [_figure("vpc", "Predictive check: measurements among simulated studies of new patients", again)]
        if "curves" in self.views.tree.children:
            free = plots.free_of_progression(*self.views.progression())
            shown.append(_figure("progression", "Progression after the first infusion", again, free))
        controls = _radio("stratum", "Assay and infusion", options, next(iter(options), None))
        return [_sides([controls], shown)]

    def patient(self) -> list[Any]:
        """Fit and risk of one patient."""
        again = f"reinfuse report {self.name}"
        known = set(self.views.curves.data_vars)
        fits = [(f"fit_{assay}", style.assay_name(assay)) for assay in ASSAYS if assay in known]
        shown = [_figure(name, f"{words}: measured, and 50 and 95\u00a0% of curves", again) for name, words in fits]
        shown.append(_figure("risk", "Probability of progression since the latest infusion", again))
        shown.append(_figure("prognosis", "Forecast: probability of progression, by what was known on a day", ""))
        controls = [
            _choice("whose", "Patient", {name: name for name in self.views.patients}),
            _radio("known", "Forecast by what was known on", {words: words for words in KNOWN}, "all data"),
            html.Div(id="prognosis_words", **{"aria-live": "polite"}),
        ]
        return [_sides(controls, shown)]

    def retreatment(self) -> list[Any]:
        """Sliders, and the second infusion beside none."""
        products = {name: name for name in PRODUCTS}
        lacking = {each.key for each in self.laboratory.lacking}
        switches = {each.key: each.words for each in MECHANISMS if each.key not in lacking}
        whose = {EVERYBODY: EVERYBODY, **{name: name for name in self.views.patients}}
        controls = [
            _choice("continued", "Whose second infusion", whose),
            _radio("first", "First product", products, "ide-cel"),
            _radio("second", "Second product", products, "cilta-cel"),
            *(_slider(*each) for each in SLIDERS),
            _radio("banked", "Apheresis", {"no": "at relapse", "yes": "banked before therapy"}, "no"),
            _radio("binder", "Binder of the second product", {name: name for name in BINDER}, next(iter(BINDER))),
            html.Fieldset(
                [
                    html.Legend("Hypotheses of relapse that are on"),
                    dcc.Checklist(switches, list(switches), id="hypotheses"),
                ]
            ),
        ]
        shown = [_figure(name, words, "") for name, words in SECOND_FIGURES.items()]
        keep = [
            html.Details([html.Summary("Scenario file of this page"), html.Pre(id="scenario")]),
            html.Button(f"Save {SCENARIO_FILE}", id="save_scenario"),
            dcc.Download(id="scenario_saved"),
        ]
        return [_sides(controls, [html.Div(id="answer", **{"aria-live": "polite"}), *shown, html.Div(keep)])]

    def sensitivity(self) -> list[Any]:
        """What drives the outcomes."""
        table, _ = self.views.drivers
        outcomes = {name: name for name in dict.fromkeys(table["outcome"])}
        again = f"reinfuse identify {self.name} --out known"
        if self.views.sensitivity is not None:
            again = json.loads((self.views.sensitivity / RUN_FILE).read_text(encoding="utf-8"))["command"]
        shown = [_figure("drivers", "What the outcome depends on", again)]
        return [_sides([_radio("outcome", "Outcome", outcomes, next(iter(outcomes)))], shown)]

    # ------------------------------------------------------------------------------------------- answers

    def _vpc(self, chosen: str) -> list[plots.Figure]:
        dvid, _, stratum = chosen.partition("|")
        return [plots.predictive(self.views.vpc, dvid, stratum)]

    def _patient(self, patient: str) -> list[plots.Figure]:
        found = []
        for assay in ASSAYS:
            days, bands, rows = self.views.fit(patient, assay)
            traces = plots.band(days, bands, "model", style.BLUE, LABELS) + plots.measured(rows)
            name = style.assay_name(assay)
            found.append(plots.figure(traces, x="days since the first infusion", y=name, log=True))
        days, chance = self.views.risk(patient)
        risk = plots.band(days, chance, "probability", style.PURPLE, LABELS)
        words = "probability of progression"
        found.append(plots.figure(risk, x="days since the first infusion", y=words, y_range=(0, 1.02)))
        return found

    def _prognosis(self, patient: str, known: str) -> tuple[plots.Figure, list[Any], str]:
        day = KNOWN[known]
        try:
            found = self.forecasts.of(patient, day)
        except ReinfuseError as fault:
            return plots.prognosis(None), [html.P(str(fault), className="fault", role="alert")], ""
        words = [html.P(sentence) for sentence in found.words]
        return plots.prognosis(found.table), words, self.forecasts.command(self.name, patient, day, found.until)

    def _drivers(self, outcome: str) -> list[plots.Figure]:
        table, label = self.views.drivers
        return [plots.bars(table[table["outcome"] == outcome], label)]

    def _second(self, *values: Any) -> tuple[Any, ...]:
        second, first, banked, binder, hypotheses, continued, *slid = values
        choice = Choice(
            first=first,
            second=second,
            banked=banked == "yes",
            same_scfv=BINDER[binder],
            # what the run's model lacks is not on the page, and stays as it is
            hypotheses=tuple({*hypotheses, *(each.key for each in self.laboratory.lacking)}),
            patient=None if continued == EVERYBODY else continued,
            **{name: float(value) for (name, *_), value in zip(SLIDERS, slid, strict=True)},
        )
        command = choice.command(self.name, self.laboratory.seed)
        try:
            answer = self.laboratory.answer(choice)
        except ReinfuseError as fault:
            empty = plots.figure([], x="", y="")
            return empty, empty, empty, html.P(str(fault), className="fault", role="alert"), choice.toml, *[command] * 3
        return *second_figures(answer), _table(answer), choice.toml, *[command] * 3

    # -------------------------------------------------------------------------------------------- saving

    @staticmethod
    def _savings(app: Dash) -> None:
        pressed = [Input({"part": "save", "name": MATCH, "kind": kind}, "n_clicks") for kind in ("png", "svg", "copy")]
        app.clientside_callback(
            _SAVE,
            Output({"part": "saved", "name": MATCH}, "children"),
            *pressed,
            State({"part": "saved", "name": MATCH}, "id"),
            prevent_initial_call=True,
        )

        def data(_: int, shown: plots.Figure) -> dict[str, Any]:
            name = ctx.triggered_id["name"]
            return {"content": plots.numbers(shown).to_csv(index=False), "filename": f"{name}.csv"}

        app.callback(
            Output({"part": "csv", "name": MATCH}, "data"),
            Input({"part": "save", "name": MATCH, "kind": "csv"}, "n_clicks"),
            State({"part": "graph", "name": MATCH}, "figure"),
            prevent_initial_call=True,
        )(data)


def second_figures(answer: Answer) -> list[plots.Figure]:
    """Burden, CAR-T cells and PFS of an answer."""
    since = "days since the second infusion (or its day)"
    free = {name: rows[[1, 0, 2]] for name, rows in answer.free.items()}
    edges = ("less two Monte Carlo errors", "share", "plus two Monte Carlo errors")
    burden, cart, share = (
        plots.arms(DAYS, answer.burden, LABELS, floor=plots.ONE_CELL),
        plots.arms(DAYS, answer.cart, LABELS, floor=plots.FEWEST_CART),
        plots.arms(MONTHS, free, edges),
    )
    return [
        plots.figure(burden, x=since, y="myeloma cells", log=True, y_range=(0, 13)),
        plots.figure(cart, x=since, y="CAR-T cells/µL", log=True, y_range=(-3.1, 4)),
        plots.figure(share, x="months", y="share free of progression and death", y_range=(0, 1.02)),
    ]


def _table(answer: Answer) -> html.Table:
    gains, loses, months = (answer.measure(words) for words in ("gains", "loses", "second PFS to"))
    lines = (
        ("Probability of benefit", f"{gains['measure']}", f"{gains['value']:.1%}", f"{gains['mc_error']:.1%}"),
        ("Probability of harm", f"{loses['measure']}", f"{loses['value']:.1%}", f"{loses['mc_error']:.1%}"),
        ("Gain", f"{months['measure']}", f"{months['value']:+.1f} months", f"{months['mc_error']:.2f}"),
    )
    head = html.Thead(html.Tr([html.Th(name) for name in ("Second infusion less none", "", "", "Monte Carlo error")]))
    body = html.Tbody([html.Tr([html.Td(cell) for cell in line]) for line in lines])
    lost = answer.patients - answer.followed
    without = f" {lost} without measurable M-protein at the infusion are left out of PFS." if lost else ""
    note = html.P(f"{answer.patients} virtual patients, the same in both arms; {np.ptp(MONTHS):g} months.{without}")
    return html.Div([html.Table([head, body]), note])


def _answering(
    app: Dash, names: Sequence[str], wanted: Sequence[Input], answer: Callable[..., list[plots.Figure]]
) -> None:
    """Have figures follow controls."""
    app.callback([Output({"part": "graph", "name": name}, "figure") for name in names], *wanted)(answer)


def _figure(name: str, caption: str, command: str, shown: plots.Figure | None = None) -> html.Figure:
    """A figure, what saves it, and the command line that repeats it."""
    graph = dcc.Graph(
        id={"part": "graph", "name": name},
        figure=shown or plots.figure([], x="", y=""),
        config={"displayModeBar": False, "responsive": True},
        style={"height": "340px"},
    )
    kinds = {"png": "PNG", "svg": "SVG", "csv": "Data (CSV)", "copy": "Copy command"}
    saves = [
        html.Button(words, id={"part": "save", "name": name, "kind": kind}, **{"aria-label": f"{words}: {caption}"})
        for kind, words in kinds.items()
    ]
    line = html.Pre(html.Code(command, id={"part": "command", "name": name}), id=f"command-{name}")
    told = html.Span(id={"part": "saved", "name": name}, role="status")
    return html.Figure(
        [
            html.Figcaption(caption),
            html.Div(graph, id=f"graph-{name}", role="img", **{"aria-label": caption}),
            html.Div([*saves, told], className="saves"),
            line,
            dcc.Download(id={"part": "csv", "name": name}),
        ]
    )


def _sides(controls: Sequence[Any], shown: Sequence[Any]) -> html.Div:
    figures = html.Div([one for one in shown if isinstance(one, html.Figure)], className="figures")
    before = [one for one in shown[:1] if not isinstance(one, html.Figure)]
    after = [one for one in shown[1:] if not isinstance(one, html.Figure)]
    return html.Div([html.Div(controls, className="controls"), html.Div([*before, figures, *after])], className="sides")


def _radio(name: str, label: str, options: dict[str, str], value: str | None) -> html.Fieldset:
    return html.Fieldset([html.Legend(label), dcc.RadioItems(options, value, id=name)])


def _choice(name: str, label: str, options: dict[str, str]) -> html.Fieldset:
    given = [{"label": words, "value": key} for key, words in options.items()]
    menu = dcc.Dropdown(given, next(iter(options)), id=name, clearable=False)
    return html.Fieldset([html.Legend(html.Label(label, htmlFor=name)), menu])


def _slider(name: str, label: str, low: float, high: float, step: float, value: float) -> html.Div:
    slider = dcc.Input(id=name, type="range", min=low, max=high, step=step, value=value)
    return html.Div(
        [html.Label([f"{label}: ", html.Output(id=f"{name}_said")], htmlFor=name), slider], className="slider"
    )
