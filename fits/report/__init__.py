"""The report: one self-contained HTML file about one run."""
