"""flows/runs."""
