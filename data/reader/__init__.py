"""data/reader."""
