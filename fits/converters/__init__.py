"""From public data sets that a user holds to cohort tables, one file per source; no data are shipped."""
