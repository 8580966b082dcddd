"""The registry of models: one file per ODE model, each read like the paper."""
