"""data/select."""
