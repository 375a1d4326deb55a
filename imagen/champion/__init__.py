"""imagen/champion."""
