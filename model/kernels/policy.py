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
    return _compile(function, fastmath=FLAGS, _nrt=True)


def leaf[F: Callable[..., Any]](function: F) -> F:
    """As `kernel`, for a function that makes no array: without the counting of references.

    A reference is counted by an atomic instruction, dearer than an exponential, and all threads count on the same
    place. What such a function calls would inherit this, so `kernel` says the opposite.
    """
    return _compile(function, fastmath=FLAGS, _nrt=False)


def parallel_kernel[F: Callable[..., Any]](function: F) -> F:
    """As `kernel`, with ``prange`` running on all threads."""
    return _compile(function, parallel=True)


def c_function[F: Callable[..., Any]](signature: Any) -> Callable[[F], F]:
    """Compile a function for this signature, at once, to be called by its address."""

    def decorate(function: F) -> F:
        if numba.config.DISABLE_JIT:
            return function
        options: dict[str, Any] = {"error_model": "numpy", "fastmath": FLAGS}
        compiled: F = _cached(lambda **cache: numba.cfunc(signature, **cache, **options)(function))
        return compiled

    return decorate


def _compile[F: Callable[..., Any]](function: F, **options: Any) -> F:
    compiled: F = _cached(lambda **cache: numba.njit(**cache, **OPTIONS, **options)(function))
    return compiled


def _cached(compile_: Callable[..., Any]) -> Any:
    """What a compiler makes with its cache on disk; without, where no place is writable."""
    try:
        return compile_(cache=True)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return compile_()
