"""Mechanisms of relapse that an experiment switches or multiplies: what each is called, and what it multiplies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


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
        Symbols that its multiplier multiplies (under a logit, their odds); 0 switches the mechanism off.
    product_fields
        The same of products.
    """

    key: str
    words: str
    parameters: tuple[str, ...]
    product_fields: tuple[str, ...] = ()

    def absent(self, held: Mapping[str, float]) -> bool:
        """Whether a model that holds some symbols at these values has none of it."""
        return all(held.get(name) == 0.0 for name in self.parameters)


#: In the order in which worlds and drivers are listed. Exhaustion is of the CAR-T cells themselves, as in the variant
#: `no-exhaustion` of a fit: what antigen does to them (`kX`), and exhausted cells that come with a product, because the
#: host was worn (`fXQ`) or anyway (`fX0`).
MECHANISMS: Final = (
    Mechanism("host_dysfunction", "host T-cell dysfunction", ("bR", "bXQ", "sline", "sres")),
    Mechanism("exhaustion", "exhaustion of CAR-T cells", ("kX", "fXQ"), ("fX0",)),
    Mechanism("antigen_loss_fraction", "antigen loss", ("fr",)),
    Mechanism("anti_car_immunity", "anti-CAR immunity", ("alA",)),
    Mechanism("microenvironment", "suppressive microenvironment", ("bX", "bK")),
)
