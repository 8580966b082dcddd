"""Compiled kernels: lanes, tableaux, the adaptive driver with its adjoint, and the compile policy."""
