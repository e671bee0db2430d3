"""Cells and how they are made, by whom and where: no learning either."""
