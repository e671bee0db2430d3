"""The published results that the studies are set beside: the figures of Tang et al. 2024 as numbers."""
