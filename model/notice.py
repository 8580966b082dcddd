"""What every output says of itself."""

from typing import Final

NOTICE: Final = "Research software: not a medical device, never a dosing recommendation."
