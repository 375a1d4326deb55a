"""imagen/train."""
