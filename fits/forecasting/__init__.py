"""One new patient: what a run's population and that patient's data so far say of the time to come."""
