"""imagen/config."""
