"""CAR-T products: dose, fitness, killing, composition, assay scale of ide-cel, cilta-cel or your own.

A product's multipliers are relative to ide-cel, whose multipliers are 1 by definition. Those of cilta-cel
were chosen so that simulated cohorts reproduce published response rates and kinetics (CAL); where a fit
estimates product effects (`model.parameters.PRODUCT_EFFECTS`), these replace them.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from .errors import ReinfuseError

_POSITIVE: Final = ("dose", "f0", "m0", "h", "gp", "feng", "scale", "power")
_SHARES: Final = ("fM0", "fX0")
_TEXTS: Final = ("name", "scfv", "source")


@dataclass(frozen=True, kw_only=True)
class Product:
    """One CAR-T product.

    Attributes
    ----------
    name : str
        Lower-case id.
    dose : float
        Reference dose, CAR+ cells.
    f0, m0, h, gp, feng : float
        Multipliers against ide-cel: of proliferation (rho), killing (k), effectors for half-maximal killing
        (KE; a small `h` is a potent product), niche closing time (tg), engrafted fraction (feng).
    fM0, fX0 : float
        Memory and exhausted share of the infused cells when the host's T cells are healthy (Q = 0); the
        rest are effectors.
    immunogenicity : float
        Drive of anti-CAR immunity, ide-cel = 1.
    scale : float
        Transgene assay of the reference model, copies/µg DNA per (CAR+ cell/µL)^power.
    power : float
        Power of the transgene assay of the reference model.
    scfv : str
        Binder. Only equality is used: immunity against one product acts fully on another with the same
        binder.
    source : str
        Where the numbers come from, as a whole.
    sources : Mapping of str to str
        The same by field, each beginning with its tag.

    Raises
    ------
    ReinfuseError
        If a number is not finite, a positive one is not positive, a share is outside [0, 1), the shares leave
        no effectors, or a text is empty.
    """

    name: str
    dose: float
    f0: float = 1.0
    m0: float = 1.0
    h: float = 1.0
    gp: float = 1.0
    feng: float = 1.0
    fM0: float
    fX0: float
    immunogenicity: float
    scale: float
    power: float = 1.0
    scfv: str
    source: str
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ReinfuseError(f"product {self.name!r}: {name} is {value!r}; give a text")
        if self.name != self.name.strip().lower() or any(c.isspace() for c in self.name):
            raise ReinfuseError(f"product {self.name!r}: give a lower-case name without spaces, like 'ide-cel'")
        for name in (*_POSITIVE, *_SHARES, "immunogenicity"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ReinfuseError(f"product {self.name!r}: {name} is {value!r}; give a number")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ReinfuseError(f"product {self.name!r}: {name} is {getattr(self, name)}; give a number > 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ReinfuseError(f"product {self.name!r}: {name} is {getattr(self, name)}; give a share in [0, 1)")
        if self.fM0 + self.fX0 >= 1:
            raise ReinfuseError(
                f"product {self.name!r}: fM0 + fX0 is {self.fM0 + self.fX0:g}; leave room for effectors (< 1)"
            )
        if self.immunogenicity < 0:
            raise ReinfuseError(f"product {self.name!r}: immunogenicity is {self.immunogenicity}; give a number >= 0")
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @classmethod
    def from_mapping(cls, entries: Mapping[str, Any]) -> "Product":
        """Make a product from a dictionary, such as a table of a TOML file.

        Parameters
        ----------
        entries : Mapping
            The fields of `Product`. Multipliers and `power` may be left out (1).

        Raises
        ------
        ReinfuseError
            For an unknown or missing field, or as `Product`.
        """
        known = [f.name for f in fields(cls)]
        called = f"product {entries.get('name', '(no name)')!r}"
        unknown = [key for key in entries if key not in known]
        if unknown:
            raise ReinfuseError(f"{called}: unknown field {unknown[0]!r}; the fields are {', '.join(known)}")
        optional = {"f0", "m0", "h", "gp", "feng", "power", "sources"}
        missing = [name for name in known if name not in optional and name not in entries]
        if missing:
            raise ReinfuseError(f"{called}: {', '.join(missing)} missing; give a value for each")
        sources = entries.get("sources", {})
        if not isinstance(sources, Mapping):
            raise ReinfuseError(f"{called}: sources is {sources!r}; give a table of field = text")
        return cls(**{str(key): value for key, value in entries.items()})


_CAL: Final = "CAL to published response rates and kinetics of the product; prior log-sd 0.3 ASSUMED"
_DEFINITION: Final = "ASSUMED; a definition: the reference product"

_IDE_CEL: Final = Product(
    name="ide-cel",
    dose=4.5e8,
    fM0=0.10,
    fX0=0.05,
    immunogenicity=1.0,
    scale=450.0,
    scfv="bb2121 murine scFv",
    source="the reference product: dose from its label and KarMMa, assay scale CAL, composition ASSUMED",
    sources={
        "dose": "READ 300 to 460 million CAR+ cells by label, 150 to 450 million in the trial",
        **dict.fromkeys(("f0", "m0", "h", "gp", "feng"), _DEFINITION),
        "fM0": "ASSUMED",
        "fX0": "ASSUMED",
        "immunogenicity": _DEFINITION,
        "scale": "CAL; about 8 times too low against the Fandrei 2024 cohort; prior log-sd 1.0 ASSUMED",
        "power": "ASSUMED; proportional",
        "scfv": "RECALLED; only equality of binders is used",
    },
)

_CILTA_CEL: Final = Product(
    name="cilta-cel",
    dose=5.5e7,
    f0=1.40,
    m0=1.15,
    h=0.15,
    gp=1.2,
    fM0=0.15,
    fX0=0.05,
    immunogenicity=0.4,
    scale=75.0,
    scfv="two camelid VHH",
    source="multipliers CAL to CARTITUDE-1 and label kinetics; composition and immunogenicity ASSUMED",
    sources={
        "dose": "READ target of 0.75 million CAR+ cells per kg; 5.5e7 is that for about 73 kg (ASSUMED)",
        **dict.fromkeys(("f0", "m0", "h", "gp"), _CAL),
        "feng": "ASSUMED equal to ide-cel",
        "fM0": "ASSUMED",
        "fX0": "ASSUMED",
        "immunogenicity": "ASSUMED; antibodies in about 20 % against 45 to 50 % after ide-cel (RECALLED)",
        "scale": "CAL; about 8 times too low against the Fandrei 2024 cohort; prior log-sd 1.0 ASSUMED",
        "power": "ASSUMED; proportional",
        "scfv": "RECALLED; only equality of binders is used",
    },
)

_registry: dict[str, Product] = {p.name: p for p in (_IDE_CEL, _CILTA_CEL)}

#: Known products by name; a live, read-only view that `register` adds to.
PRODUCTS: Final[Mapping[str, Product]] = MappingProxyType(_registry)


def product(name: str) -> Product:
    """Product by name (raises ReinfuseError naming the known ones)."""
    try:
        return PRODUCTS[name]
    except (KeyError, TypeError):
        raise ReinfuseError(
            f"unknown product {name!r}; known are {', '.join(PRODUCTS)}; register your own with `register`"
        ) from None


def register(new: Product) -> None:
    """Make a product known by its name in this process.

    Registering an equal product again does nothing.

    Raises
    ------
    ReinfuseError
        If another product already has the name.
    """
    old = PRODUCTS.get(new.name)
    if old is not None and old != new:
        raise ReinfuseError(f"product {new.name!r} is already known with other values; choose another name")
    _registry[new.name] = new


def load_products(path: str | PathLike[str]) -> tuple[Product, ...]:
    """Read the `[[product]]` tables of a TOML file; nothing is registered.

    Raises
    ------
    ReinfuseError
        If the file is missing or no TOML, holds no `[[product]]`, names one product twice, or describes one
        badly (`Product.from_mapping`).
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as err:
        raise ReinfuseError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ReinfuseError(f"{path}: not a TOML file ({err}); see the documentation of products") from err
    tables = content.get("product")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise ReinfuseError(f"{path}: no [[product]] table; write one per product")
    made = []
    for table in tables:
        try:
            made.append(Product.from_mapping(table))
        except ReinfuseError as err:
            raise ReinfuseError(f"{path}: {err}") from err
    names = [p.name for p in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReinfuseError(f"{path}: product {twice[0]!r} stands twice; keep one")
    return tuple(made)
