"""imagen/metrics."""
