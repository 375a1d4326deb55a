"""The built-in world: pictures of coloured shapes with true captions, an origin server that misbehaves, tiny models."""
