"""Global sensitivity: which numbers drive an outcome, over their whole range."""
