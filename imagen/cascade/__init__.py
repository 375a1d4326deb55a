"""imagen/cascade."""
