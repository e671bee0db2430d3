"""From tokens to log-probabilities and preferences."""
