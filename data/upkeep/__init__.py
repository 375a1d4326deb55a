"""data/upkeep."""
