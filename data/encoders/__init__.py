"""data/encoders."""
