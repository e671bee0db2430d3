"""The seven slots of an algorithm: pure, small, composable."""
