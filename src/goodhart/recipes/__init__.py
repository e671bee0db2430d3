"""What makes each kind of cell."""
