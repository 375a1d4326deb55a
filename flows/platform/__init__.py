"""flows/platform."""
