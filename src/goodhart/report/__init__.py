"""From an analysis to figures and one HTML page."""
