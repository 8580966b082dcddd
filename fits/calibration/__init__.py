"""Is the inference right? Cohorts whose truth is known, fitted by the thousand, and how often the truth is found."""
