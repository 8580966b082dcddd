"""What the data say: cohorts, the hierarchical fit, its diagnosis, retreatment, figures and reports."""
