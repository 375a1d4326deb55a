"""data/report."""
