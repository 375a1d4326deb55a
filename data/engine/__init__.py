"""data/engine."""
