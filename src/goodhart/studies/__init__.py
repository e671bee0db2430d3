"""From a study file to cells: run, resumed, distributed."""
