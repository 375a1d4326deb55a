"""data/pictures."""
