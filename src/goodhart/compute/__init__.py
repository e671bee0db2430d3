"""Threads, kernels, placement, meters: no models and no learning."""
