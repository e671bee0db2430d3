"""From rows to frontiers, gaps and verdicts: pure functions of tables."""
