"""data/build."""
