"""The one place that decides how kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# Contraction (fused multiply-add), no signed zeros, reciprocals: never `reassoc`, which would fold away the
# range reduction of our exponential, and never `nnan`/`ninf`, because failures are recognised by them.
FLAGS = {"contract", "nsz", "arcp"}


OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}


def kernel[F: Callable[..., Any]](function: F) -> F:
    """Compile ``function`` for float64 kernels; cache it on disk if a place is writable, else in memory.

    ``error_model="numpy"``: a division by zero in a trial step gives an infinity, which the step control
    rejects, not an exception. ``nogil``: chains run in threads.
    """
    return _compile(function, fastmath=FLAGS)


def parallel_kernel[F: Callable[..., Any]](function: F) -> F:
    """As `kernel`, with ``prange`` running on all threads."""
    return _compile(function, parallel=True)


def _compile[F: Callable[..., Any]](function: F, **options: Any) -> F:
    try:
        compiled = numba.njit(cache=True, **OPTIONS, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        compiled = numba.njit(**OPTIONS, **options)(function)
    return compiled  # type: ignore[no-any-return]
