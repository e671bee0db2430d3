"""From a checkpoint to rows."""
