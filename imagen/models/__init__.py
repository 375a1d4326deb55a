"""imagen/models."""
