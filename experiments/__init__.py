"""From a config to a run directory and its report: which model, which data, which methods."""
