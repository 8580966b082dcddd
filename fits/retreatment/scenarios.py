"""What a retreatment experiment asks: the scenario file, checked key by key.

A scenario file is TOML: an optional `[settings]` table, optional `[[product]]` tables (your own products),
and one `[[scenario]]` per arm. A scenario says which first course and whom of those treated with it, which
second course (or `no_second = true`), and which hypotheses about relapse are on. The bundled
`sequential_bcma.toml` explains every key.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import Product
from reinfuse.model.products import product as known_product
from reinfuse.model.response import ResponseRules

from .mechanisms import MECHANISMS, Mechanism

type Group = Literal["non-responder", "early-relapse", "intermediate", "durable", "antigen-loss"]
#: Product, dose, lymphodepletion and bridging of a first infusion.
type Treatment = tuple[str, float | None, float, float]
type ResponseClass = Literal["PD", "SD", "MR", "PR", "VGPR", "CR", "SCR"]

#: First-response groups, from worst to best; `antigen-loss` stands apart and goes before the durations.
GROUPS: Final[tuple[Group, ...]] = get_args(Group.__value__)
#: Response classes from worst to best.
CLASSES: Final[tuple[ResponseClass, ...]] = get_args(ResponseClass.__value__)

#: Hypotheses of relapse that a scenario or a world may multiply.
HYPOTHESIS_NAMES: Final = tuple(mechanism.key for mechanism in MECHANISMS)
#: Infusions of a patient at most.
MOST_COURSES: Final = 8

#: The scenario files that come with the package, by name; the first is used when none is given.
BUNDLED: Final = ("sequential_bcma", "timing_and_dose", "options_after_relapse")


class ScenarioError(ReinfuseError):
    """A scenario file is at fault.

    Attributes
    ----------
    faults : tuple of str
        One sentence per fault: file, key, what was wrong, the value seen, what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class _Table(BaseModel):
    """A TOML table: no unknown keys, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FirstCourse(_Table):
    """The first infusion, and which of the patients who progressed after it are looked at.

    Attributes
    ----------
    product : str
        Name of the product.
    dose : float or None
        CAR+ cells; the product's reference dose if left out.
    lymphodepletion : float
        Intensity in [0, 1].
    bridging : float
        Share of the tumour left by bridging therapy, in (0, 1].
    response : list of str or None
        First-response groups to keep (`GROUPS`); all who progressed if left out.
    pfs_months : list of two floats or None
        Keep those whose first PFS is above the first and at most the second number of months.
    best_at_least, best_at_most : str or None
        Keep those whose best first response is within these classes.
    """

    product: str
    dose: float | None = Field(default=None, gt=0, lt=1e13)
    lymphodepletion: float = Field(default=1.0, ge=0, le=1)
    bridging: float = Field(default=1.0, gt=0, le=1)
    response: list[Group] | None = Field(default=None, min_length=1)
    pfs_months: list[float] | None = Field(default=None, min_length=2, max_length=2)
    best_at_least: ResponseClass | None = None
    best_at_most: ResponseClass | None = None

    @model_validator(mode="after")
    def _limits_leave_someone(self) -> Self:
        if self.pfs_months is not None:
            low, high = self.pfs_months
            if not 0 <= low < high:
                raise ValueError(f"pfs_months is {self.pfs_months}; give two rising numbers, the first >= 0")
        if self.best_at_least is not None and self.best_at_most is not None:
            if CLASSES.index(self.best_at_least) > CLASSES.index(self.best_at_most):
                raise ValueError(
                    f"best_at_least is {self.best_at_least} and best_at_most {self.best_at_most}; "
                    "no response is both; exchange them"
                )
        return self

    @property
    def treatment(self) -> Treatment:
        """What is done, without whom it is looked at: arms with the same treatment share a first course."""
        return (self.product, self.dose, self.lymphodepletion, self.bridging)


class SecondCourse(_Table):
    """The second infusion.

    Attributes
    ----------
    product : str
        Name of the product.
    dose : float or None
        CAR+ cells; 0 is allowed (lymphodepletion alone); the product's reference dose if left out.
    lymphodepletion : float
        Intensity in [0, 1].
    days_after_progression : float
        Days from progression to the infusion; the infusion falls on a whole day.
    bridging : float
        Share of the tumour left by bridging therapy just before the infusion, in (0, 1].
    apheresis : {"at-relapse", "banked"}
        Cells taken 35 days before the infusion, or before the first therapy.
    same_scfv : bool or None
        Whether the binder is that of the first product; decided from the products if left out.
    """

    product: str
    dose: float | None = Field(default=None, ge=0, lt=1e13)
    lymphodepletion: float = Field(default=1.0, ge=0, le=1)
    days_after_progression: float = Field(default=60.0, gt=0, le=3650)
    bridging: float = Field(default=1.0, gt=0, le=1)
    apheresis: Literal["at-relapse", "banked"] = "at-relapse"
    same_scfv: bool | None = None


class _Hypotheses(_Table):
    """Multipliers of `MECHANISMS`: 1 (or `true`) as fitted or assumed, 0 (or `false`) off."""

    host_dysfunction: float = Field(default=1.0, ge=0, le=100)
    exhaustion: float = Field(default=1.0, ge=0, le=100)
    antigen_loss_fraction: float = Field(default=1.0, ge=0, le=1e8)
    anti_car_immunity: float = Field(default=1.0, ge=0, le=100)
    microenvironment: float = Field(default=1.0, ge=0, le=100)
    resistance: float = Field(default=1.0, ge=0, le=5)
    short_persistence: float = Field(default=1.0, ge=0, le=5)

    @field_validator(*HYPOTHESIS_NAMES, mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return float(value) if isinstance(value, bool) else value

    @property
    def multipliers(self) -> dict[str, float]:
        """Of every mechanism, by its key."""
        return {name: float(getattr(self, name)) for name in HYPOTHESIS_NAMES}


class World(_Hypotheses):
    """Hypotheses of relapse as the whole experiment sees them; multiplies those of every scenario.

    Attributes
    ----------
    name : str
    host_dysfunction and the other keys of `MECHANISMS` : float
        Multipliers, as in `Scenario`.
    weight : float
        Relative weight in the stacked answer.
    """

    name: str = Field(min_length=1, max_length=80)
    weight: float = Field(default=1.0, ge=0, le=1e6)

    @property
    def is_bound(self) -> bool:
        """Whether it takes away what nobody can be without (`Mechanism.better`)."""
        return any(each.better and self.multipliers[each.key] == 0.0 for each in MECHANISMS)


def _without(name: str, mechanisms: Iterable[Mechanism], weight: float) -> World:
    off = {mechanism.key: 0.0 for mechanism in mechanisms}
    return World.model_validate({"name": name, "weight": weight} | off)


#: The worlds of an experiment that names none: all mechanisms on, each off, and all off that can be absent. Patients do
#: differ in killing and persistence: worlds in which all do well there are bounds, and weigh nothing in the stack.
WORLDS: Final = (
    World(name="as assumed"),
    *(_without(each.world, [each], weight=0.0 if each.better else 1.0) for each in MECHANISMS),
    _without("none of these", [each for each in MECHANISMS if not each.better], weight=1.0),
)


class Scenario(_Hypotheses):
    """One arm of a retreatment experiment.

    Attributes
    ----------
    name : str
        Unique in its file.
    about : str
        A sentence for the reader of tables and figures.
    first : FirstCourse
    second : SecondCourse or None
        Needed unless `no_second`. Beside `no_second` it is not given, but its `days_after_progression` sets
        the day from which the arm is followed, so that it can be compared.
    then : list of SecondCourse
        Further infusions, each after the progression that follows the one before.
    no_second : bool
        The comparator without a second infusion.
    bispecific : bool
        The comparator with a bispecific antibody instead, which needs the patient's own T cells: `Bispecific`.
    wait_and_see : bool
        The second infusion is planned only once M-protein has risen to `wait_rise` times its value at progression, as
        seen at a visit; who never gets there within the first horizon stays without.
    wait_rise : float
        See `wait_and_see`.
    host_dysfunction and the other keys of `MECHANISMS` : float
        Multipliers of hypotheses: 1 (or `true`) as fitted or assumed, 0 (or `false`) off.
    """

    name: str = Field(min_length=1, max_length=80)
    about: str = ""
    first: FirstCourse
    second: SecondCourse | None = None
    then: list[SecondCourse] = Field(default_factory=list, max_length=MOST_COURSES - 2)
    no_second: bool = False
    bispecific: bool = False
    wait_and_see: bool = False
    wait_rise: float = Field(default=2.0, gt=1, le=100)

    @model_validator(mode="after")
    def _one_second_course(self) -> Self:
        if self.no_second and self.bispecific:
            raise ValueError("no_second and bispecific are both true; make two scenarios of them")
        without = "no_second" if self.no_second else "bispecific" if self.bispecific else None
        if self.second is None and without is None:
            raise ValueError("second is missing; add second.product = ..., or no_second = true, or bispecific = true")
        if self.then and without is not None:
            raise ValueError(f"then has {len(self.then)} further infusions beside {without} = true; remove one of them")
        if self.wait_and_see and without is not None:
            raise ValueError(f"wait_and_see waits for a second infusion, and {without} is true; remove one of them")
        return self

    def hypotheses(self, world: World) -> dict[str, float]:
        """The multipliers in a world, by the keys of `MECHANISMS`."""
        return {name: factor * world.multipliers[name] for name, factor in self.multipliers.items()}

    def first_key(self, world: World) -> tuple[Treatment, tuple[float, ...]]:
        """Arms with equal keys share their first courses: they are paired patient by patient."""
        return (self.first.treatment, tuple(self.hypotheses(world).values()))

    @property
    def later(self) -> tuple[SecondCourse, ...]:
        """Every infusion after the first, in order; none in a comparator."""
        return () if self.no_second or self.bispecific or self.second is None else (self.second, *self.then)

    @property
    def days_after_progression(self) -> float:
        """Days from progression to the day from which the second course is followed."""
        default = float(SecondCourse.model_fields["days_after_progression"].default)
        return default if self.second is None else self.second.days_after_progression

    @property
    def second_label(self) -> str:
        """Name of the second product, `bispecific`, or `none`."""
        if self.bispecific:
            return "bispecific"
        return self.later[0].product if self.later else "none"


class Settings(_Table):
    """How courses are followed and read out.

    Attributes
    ----------
    visit_every_days : int
        Days between visits; responses and progression are seen at visits only.
    visit_days : list of float
        Days of the first visits, if they are others; from the last of them on it is every so many days.
    first_horizon_months : float
        A patient who has not progressed by then is not retreated.
    second_horizon_months : float
        Follow-up of the second course; at least 24 for the summary's 24-month figures.
    progression : {"mprotein", "hazard"}
        By M-protein rules, or by the hazard fitted to progression times (run on a real cohort).
    level : float
        Level of the intervals.
    confirm_response, confirm_progression : bool
        Whether they have to hold at the next visit too.
    extinction : bool
        Whether a tumour of few cells may die out by chance (`reinfuse.model.extinction`).
    """

    visit_every_days: int = Field(default=28, ge=1, le=182)
    visit_days: list[float] = Field(default_factory=list)
    first_horizon_months: float = Field(default=60.0, ge=3, le=240)
    second_horizon_months: float = Field(default=60.0, ge=24, le=240)
    progression: Literal["mprotein", "hazard"] = "mprotein"
    level: float = Field(default=0.95, gt=0.5, lt=1)
    confirm_response: bool = True
    confirm_progression: bool = False
    extinction: bool = False

    @model_validator(mode="after")
    def _visits_rise(self) -> Self:
        if any(day <= 0 for day in self.visit_days) or sorted(set(self.visit_days)) != self.visit_days:
            raise ValueError(f"visit_days is {self.visit_days}; give rising days after the infusion, above 0")
        return self

    @property
    def rules(self) -> ResponseRules:
        """How courses are judged."""
        return ResponseRules(
            visit_interval=float(self.visit_every_days),
            visit_days=tuple(self.visit_days),
            confirm_response=self.confirm_response,
            confirm_progression=self.confirm_progression,
        )


class Bispecific(_Table):
    """A bispecific antibody against BCMA, given from a day on until progression; it kills by the patient's own T cells.

    Its killing is ``killing`` times the fitness of these, ``(1 - Q) ** power``, less in a suppressive microenvironment;
    BCMA-low cells are bystanders, as to CAR-T cells.

    Attributes
    ----------
    killing : float
        Highest rate of killing, 1/d (CAL: see `docs/retreatment.md`).
    killing_log_sd : float
        Its spread between patients (ASSUMED).
    power : float
        How steeply dysfunction costs killing (ASSUMED).
    wear : float
        How fast lasting engagement wears the T cells, 1/d (CAL).
    """

    killing: float = Field(default=1.5, gt=0, le=100)
    killing_log_sd: float = Field(default=0.7, ge=0, le=5)
    power: float = Field(default=3.0, ge=0, le=20)
    wear: float = Field(default=0.04, ge=0, le=10)


class ScenarioFile(_Table):
    """A whole scenario file.

    Attributes
    ----------
    title : str
    anchor : str or None
        Name of the scenario to be set beside the published study of ten patients.
    settings : Settings
    scenarios : list of Scenario
        The `[[scenario]]` tables.
    worlds : list of World
        The `[[world]]` tables: hypotheses under which every scenario is run, and their weights; `WORLDS` if left out.
    bispecific : Bispecific
        The `[bispecific]` table.
    products : dict of str to Product
        The file's own products by name, beside those that are known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    title: str = ""
    anchor: str | None = None
    settings: Settings = Settings()
    scenarios: list[Scenario] = Field(alias="scenario", min_length=1)
    worlds: list[World] = Field(default=list(WORLDS), alias="world", min_length=1)
    bispecific: Bispecific = Bispecific()
    products: dict[str, Product] = Field(default_factory=dict, alias="product")

    @field_validator("products", mode="before")
    @classmethod
    def _read_products(cls, value: object) -> object:
        if not isinstance(value, list):
            raise ValueError("write one [[product]] table per product")
        made: dict[str, Product] = {}
        for entry in value:
            product = entry if isinstance(entry, Product) else Product.from_mapping(entry)
            if product.name in made:
                raise ValueError(f"product {product.name!r} stands twice; keep one")
            made[product.name] = product
        return made

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [scenario.name for scenario in self.scenarios]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"scenario name {twice[0]!r} stands twice; give each scenario its own name")
        worlds = [world.name for world in self.worlds]
        if len(set(worlds)) < len(worlds) or "stacked" in worlds:
            raise ValueError(
                f"worlds are named {', '.join(map(repr, worlds))}; give each its own name, and none 'stacked'"
            )
        if not sum(world.weight for world in self.worlds) > 0:
            raise ValueError("the weights of all worlds are 0; give one of them a weight")
        if self.anchor is not None and self.anchor not in names:
            raise ValueError(
                f"anchor is {self.anchor!r}, which is no scenario; use one of {', '.join(map(repr, names))}"
            )
        for index, scenario in enumerate(self.scenarios):
            further = ((f"then[{i}]", course) for i, course in enumerate(scenario.then, start=1))
            for key, course in (("first", scenario.first), ("second", scenario.second), *further):
                if course is not None and course.product not in self.products:
                    try:
                        known_product(course.product)
                    except ReinfuseError as fault:
                        raise ValueError(
                            f"scenario[{index + 1}].{key}.product ({scenario.name!r}): {fault}, or add a "
                            "[[product]] table to this file"
                        ) from None
            if (
                scenario.first.pfs_months is not None
                and scenario.first.pfs_months[0] >= self.settings.first_horizon_months
            ):
                raise ValueError(
                    f"scenario[{index + 1}].first.pfs_months ({scenario.name!r}) begins at "
                    f"{scenario.first.pfs_months[0]:g}, the first course is followed for "
                    f"{self.settings.first_horizon_months:g} months; raise settings.first_horizon_months"
                )
        return self

    def product(self, name: str) -> Product:
        """Look a product up: the file's own before the known ones (raises ReinfuseError if unknown)."""
        return self.products[name] if name in self.products else known_product(name)

    def without(self, lacking: Iterable[Mechanism]) -> Self:
        """The same for patients who have none of some mechanisms: those of `WORLDS` without these are left out.

        Worlds that the file names itself stay.
        """
        if "worlds" in self.model_fields_set:
            return self
        absent = {mechanism.world for mechanism in lacking}
        return self.model_copy(update={"worlds": [world for world in self.worlds if world.name not in absent]})

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each world in the stacked answer, summing to 1."""
        total = sum(world.weight for world in self.worlds)
        return {world.name: world.weight / total for world in self.worlds}

    @property
    def product_names(self) -> tuple[str, ...]:
        """Every product that a scenario uses, in order of first use."""
        courses = [c for s in self.scenarios for c in (s.first, s.second, *s.then) if c is not None]
        return tuple(dict.fromkeys(course.product for course in courses))


# ------------------------------------------------------------------------------------------ reading


def load(path: str | Path | None = None) -> ScenarioFile:
    """Read and check a scenario file.

    Parameters
    ----------
    path
        A TOML file, or the name of a bundled one (`BUNDLED`); the first of these when None.

    Raises
    ------
    ScenarioError
        With every fault that could be found: file, key, value seen, remedy.
    """
    name = BUNDLED[0] if path is None else str(path)
    if name in BUNDLED:
        text = resources.files(__package__).joinpath("data", f"{name}.toml").read_text(encoding="utf-8")
        return parse(text, where=f"{name}.toml")
    file = Path(name)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise ScenarioError([f"{file}: not UTF-8 text (byte {fault.start}); save it as a UTF-8 TOML file"]) from None
    except OSError as fault:
        raise ScenarioError([f"{file}: cannot be read ({fault.strerror}); check the path"]) from None
    return parse(text, where=str(file))


def parse(text: str, *, where: str = "scenarios") -> ScenarioFile:
    """Check the text of a scenario file.

    Parameters
    ----------
    text
        TOML.
    where
        What to call the file in messages.

    Raises
    ------
    ScenarioError
        As `load`.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ScenarioError([f"{where}: not valid TOML: {fault}; mend that line"]) from None
    try:
        return ScenarioFile.model_validate(content)
    except ValidationError as fault:
        raise ScenarioError([_sentence(where, error, content) for error in fault.errors()]) from None


_REMEDIES: Final[Mapping[str, str]] = {
    "missing": "add it",
    "float_type": "write a number without quotes",
    "int_type": "write a whole number without quotes",
    "string_type": "write a text in quotes",
    "bool_type": "write true or false",
    "list_type": "write a list in square brackets",
    "model_type": 'write a table of keys, like first.product = "ide-cel"',
    "model_attributes_type": 'write a table of keys, like first.product = "ide-cel"',
}


def _sentence(where: str, error: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Turn one pydantic error into file, key, what, value seen, remedy."""
    key = _key(error["loc"], content)
    kind, value = str(error["type"]), error.get("input")
    if kind == "value_error":
        said = str(error["ctx"]["error"])
        return f"{where}: {key}: {said}" if key else f"{where}: {said}"
    if kind == "extra_forbidden":
        known = _keys_at(error["loc"])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known)}"
        return f"{where}: {key}: unknown key (value {value!r}); {hint}"
    if kind == "missing":
        return f"{where}: {key}: is missing; add it"
    remedy = _REMEDIES.get(kind) or str(error["msg"]).replace("Input should be", "give").rstrip(".")
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        remedy = f"give a number {_range(error)}"
    if isinstance(value, float) and not math.isfinite(value):
        remedy = "give a finite number"
    if kind in {"too_short", "too_long"}:
        remedy = str(error["msg"])
    return f"{where}: {key}: value {value!r} is not possible here; {remedy}"


def _range(error: Mapping[str, Any]) -> str:
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    return " and ".join(f"{words[k]} {v:g}" for k, v in error["ctx"].items() if k in words)


def _key(loc: Sequence[int | str], content: Mapping[str, Any]) -> str:
    """Write a location as `scenario[2].second.bridging ('name of the scenario')`, counting from 1."""
    text = ""
    for part in loc:
        text += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    if len(loc) >= 2 and loc[0] == "scenario" and isinstance(loc[1], int):
        listed = content.get("scenario")
        if isinstance(listed, list) and loc[1] < len(listed) and isinstance(listed[loc[1]], dict):
            name = listed[loc[1]].get("name")
            text += f" ({name!r})" if name else ""
    return text


def _keys_at(loc: Sequence[int | str]) -> list[str]:
    """List the keys that the table around an unknown key may have."""
    tables: dict[tuple[str, ...], type[BaseModel]] = {
        (): ScenarioFile,
        ("settings",): Settings,
        ("scenario",): Scenario,
        ("scenario", "first"): FirstCourse,
        ("scenario", "second"): SecondCourse,
    }
    path = tuple(str(part) for part in loc[:-1] if not isinstance(part, int))
    fields = tables.get(path, ScenarioFile).model_fields
    return [field.alias or name for name, field in fields.items()]
