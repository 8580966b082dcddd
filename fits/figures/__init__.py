"""Figures: one file per family; arrays or tables in, `matplotlib.figure.Figure` out."""
