"""flows/terminal."""
