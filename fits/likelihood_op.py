"""The only file that knows PyTensor: a cohort's log-likelihood and its gradient as one Op.

``CohortLikelihood`` takes theta (n, columns) and a counter of solver outcomes, and gives each patient's log-likelihood
(n,) together with its gradient (n, columns), both from one solve; the pullback is a product, not a second solve. In
compiled graphs the kernel is called through the address of a cached C function, so a graph never compiles the kernel
anew, and without Python's lock.
"""

from typing import Any, Final

import numba
import numpy as np
import pytensor.tensor as pt
from numba import types
from numpy.typing import NDArray
from pytensor import config
from pytensor.compile.mode import Mode
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS, _call_cached_ptr
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.link.numba.linker import NumbaLinker

from reinfuse.model.derive.build import Kernel
from reinfuse.model.kernels.interface import LOGLIK_SIGNATURE
from reinfuse.model.simulate import Status

from .problem import Problem

_KERNELS: dict[str, Kernel] = {}
_DATA: Final = ("order", "ev_time", "ev_code", "n_ev", "ob_time", "ob_kind", "ob_family", "ob_value", "n_ob")
CACHE_VERSION: Final = 3


def entry_address(name: str) -> int:
    """Address of a kernel's C function, by the name of its generated module."""
    return int(_KERNELS[name].entry.address)


def entry_of(problem: Problem) -> Any:
    """A kernel's C function, to call from compiled code."""
    return problem.kernel.entry


def kernel_data(problem: Problem) -> tuple[NDArray[Any], ...]:
    """Events and observations of a posed cohort, in a kernel's order of arguments."""
    return tuple(np.ascontiguousarray(getattr(problem, name)) for name in _DATA)


class CohortLikelihood(Op):
    """Log-likelihood of every patient: inputs theta, failures, data; outputs loglik (n,), gradient (n, columns)."""

    __props__ = ("module", "tolerance", "max_steps")

    def __init__(self, problem: Problem) -> None:
        self.module = problem.kernel.module.__name__
        self.tolerance = problem.tolerance
        self.max_steps = problem.max_steps
        _KERNELS[self.module] = problem.kernel

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to theta, the counter and the data arrays."""
        return Apply(self, [pt.as_tensor(x) for x in inputs], [pt.dvector(), pt.dmatrix()])

    def perform(self, node: Apply, inputs: list[NDArray[Any]], outputs: list[list[Any]]) -> None:
        """Evaluate outside compiled graphs."""
        outputs[0][0], outputs[1][0] = _call(self.module, self.tolerance, self.max_steps, *inputs)

    def infer_shape(self, node: Apply, shapes: list[Any]) -> list[Any]:
        """Shapes of the outputs."""
        return [(shapes[0][0],), tuple(shapes[0])]

    def pullback(self, inputs: list[Any], outputs: list[Any], cotangents: list[Any]) -> list[Any]:
        """Cotangent of theta: that of the log-likelihood times the stored gradient."""
        return [cotangents[0][:, None] * outputs[1], *(DisconnectedType()() for _ in inputs[1:])]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Only theta matters for the gradient."""
        return [[True, False], *([False, False] for _ in node.inputs[1:])]


def _call(module: str, tolerance: float, max_steps: int, theta: Any, failures: Any, *data: Any) -> Any:
    n = theta.shape[0]
    loglik, grad, status = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=np.int64)
    _KERNELS[module].loglik_grad(
        data[0], np.ascontiguousarray(theta), *data[1:], tolerance, max_steps, True, loglik, grad, status
    )
    return loglik, grad


@register_funcify_default_op_cache_key(CohortLikelihood)
def _(op: CohortLikelihood, node: Apply, **_: Any) -> Any:
    name, tolerance, max_steps = op.module, op.tolerance, op.max_steps
    kind = types.FunctionType(LOGLIK_SIGNATURE)
    unique = f"reinfuse.{name}"

    @numba_njit
    def find() -> Any:
        with numba.objmode(found=types.intp):
            found = entry_address(name)
        return found

    @numba_njit
    def cohort_likelihood(
        theta: Any,
        failures: Any,
        order: Any,
        ev_time: Any,
        ev_code: Any,
        n_ev: Any,
        ob_time: Any,
        ob_kind: Any,
        ob_family: Any,
        ob_value: Any,
        n_ob: Any,
    ) -> Any:
        entry = _call_cached_ptr(find, kind, unique)
        n, e, m = theta.shape[0], ev_time.shape[1], ob_time.shape[1]
        solid = np.ascontiguousarray(theta)
        loglik = np.empty(n)
        grad = np.empty((n, theta.shape[1]))
        entry(
            order.ctypes.data,
            solid.ctypes.data,
            ev_time.ctypes.data,
            ev_code.ctypes.data,
            n_ev.ctypes.data,
            ob_time.ctypes.data,
            ob_kind.ctypes.data,
            ob_family.ctypes.data,
            ob_value.ctypes.data,
            n_ob.ctypes.data,
            loglik.ctypes.data,
            grad.ctypes.data,
            failures.ctypes.data,
            n,
            n,
            e,
            m,
            tolerance,
            max_steps,
            True,
        )
        return loglik, grad

    return cohort_likelihood, CACHE_VERSION


def cohort_loglik(theta: Any, failures: Any, problem: Problem) -> Any:
    """Symbolic log-likelihood of each patient, (n,), of a symbolic theta (n, columns)."""
    constants = [pt.constant(a) for a in kernel_data(problem)]
    return CohortLikelihood(problem)(theta, failures, *constants)[0]


def loglik_and_gradient(
    theta: NDArray[np.float64], problem: Problem, order: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The kernel itself, on numbers: log-likelihood (n,), gradient (n, columns), status (n,).

    ``order`` restricts it to some patients; the rows of the others are 0.
    """
    n = theta.shape[0]
    loglik, grad, status = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=np.int64)
    data = kernel_data(problem)
    problem.kernel.loglik_grad(
        data[0] if order is None else order,
        np.ascontiguousarray(theta),
        *data[1:],
        problem.tolerance,
        problem.max_steps,
        True,
        loglik,
        grad,
        status,
    )
    return loglik, grad, status


class UnlockedLinker(NumbaLinker):
    """PyTensor's Numba linker, with functions that run without Python's lock, so that chains can share a process."""

    def jit_compile(self, fn_and_cache: Any) -> Any:
        """Compile the graph's function."""
        function, cache_key = fn_and_cache
        if cache_key is not None:  # Numba's disk cache does not know the flag: keep a locked build of this graph apart
            CACHED_SRC_FUNCTIONS[function.py_func] = f"{cache_key}_nogil"
        return numba_njit(function.py_func, final_function=True, nogil=True, cache=cache_key is not None)


class LogDensity:
    """The log density of a PyMC model and its gradient, at flat vectors; callable from several threads at once.

    Attributes
    ----------
    outcomes
        How often the solver ended in each `reinfuse.model.simulate.Status`, counted over all calls.
    """

    def __init__(self, model: Any) -> None:
        mode = Mode(UnlockedLinker(), RewriteDatabaseQuery(include=["fast_run", "numba"]))
        # fast-math rounds by what is inlined, and a function from the disk cache is inlined otherwise than a fresh one
        with config.change_flags(numba__fastmath=False):
            function = model.logp_dlogp_function(ravel_inputs=True, mode=mode)
        compiled = function._pytensor_function
        self._function = compiled.vm.jit_fn
        self.outcomes: NDArray[np.int64] = np.zeros(len(Status), dtype=np.int64)
        self._inputs = [variable.name == "solver_outcomes" for variable in compiled.maker.fgraph.inputs]

    def __call__(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient; minus infinity where a patient could not be solved."""
        value, gradient = self._function(*(self.outcomes if counter else x for counter in self._inputs))
        return float(value), gradient
