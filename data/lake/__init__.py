"""data/lake."""
