"""Second-infusion experiments: scenarios, virtual patients, arms, outcomes, statistics, the anchor study."""
