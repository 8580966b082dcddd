"""Mechanisms of relapse that an experiment switches or multiplies: what each is called, and what it multiplies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from scipy.stats import norm

#: Share of a population's patients who are worse off than a favourable one (ASSUMED).
FAVOURABLE: Final = 0.9
#: The same as a standard normal score.
FAVOURABLE_SCORE: Final = float(norm.ppf(FAVOURABLE))


@dataclass(frozen=True)
class Mechanism:
    """A hypothesis of relapse.

    Attributes
    ----------
    key
        As scenario files call it.
    words
        As tables and figures call it.
    parameters
        Symbols that it acts through.
    product_fields
        The same of products.
    better
        Empty for a mechanism that can be absent: its multiplier multiplies the parameters (under a logit, their odds),
        and 0 switches it off. Else by parameter +1 where more of it is better for the patient, -1 where less is: no
        patient is without a value, so the multiplier acts on how far the patient falls short of a favourable one of the
        same population (`FAVOURABLE`), on the transformed scale. 0 gives everybody at least the favourable value; who
        has a better one keeps it.
    """

    key: str
    words: str
    parameters: tuple[str, ...]
    product_fields: tuple[str, ...] = ()
    better: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def world(self) -> str:
        """Name of the world without it."""
        return f"no {self.words}"

    def absent(self, held: Mapping[str, float]) -> bool:
        """Whether patients who all have these values have none of it; with `better`, whatever the values are."""
        return all(name in held if self.better else held.get(name) == 0.0 for name in self.parameters)


#: In the order in which worlds and drivers are listed. Exhaustion is of the CAR-T cells themselves, as in the variant
#: `no-exhaustion` of a fit: what antigen does to them (`kX`), and exhausted cells that come with a product, because the
#: host was worn (`fXQ`) or anyway (`fX0`).
MECHANISMS: Final = (
    Mechanism("host_dysfunction", "host T-cell dysfunction", ("bR", "bXQ", "sline", "sres")),
    Mechanism("exhaustion", "exhaustion of CAR-T cells", ("kX", "fXQ"), ("fX0",)),
    Mechanism("antigen_loss_fraction", "antigen loss", ("fr",)),
    Mechanism("anti_car_immunity", "anti-CAR immunity", ("alA",)),
    Mechanism("microenvironment", "suppressive microenvironment", ("bX", "bK")),
    Mechanism("resistance", "tumour-intrinsic resistance", ("k", "KE"), better=MappingProxyType({"k": 1, "KE": -1})),
    Mechanism("short_persistence", "short persistence", ("dM", "dE"), better=MappingProxyType({"dM": -1, "dE": -1})),
)
#: Directions of all parameters that have one.
BETTER: Final[Mapping[str, int]] = MappingProxyType(
    {name: sign for mechanism in MECHANISMS for name, sign in mechanism.better.items()}
)
