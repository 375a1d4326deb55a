"""data/fetch."""
