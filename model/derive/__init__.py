"""From a model's one text of equations to compiled right-hand side and exact derivatives."""
