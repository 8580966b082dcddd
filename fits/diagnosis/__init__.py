"""What to believe of a fit: convergence, identifiability, predictive checks, yardsticks."""
