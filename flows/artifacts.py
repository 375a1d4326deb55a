"""What the artifacts of all runs have in common: a key that Prefect takes, and how a picture is put into one."""

import base64


def key_of(*words: str) -> str:
    return "-".join(words).replace("_", "-").replace("/", "-")


def picture(words: str, png: bytes) -> str:
    """Markdown that holds the picture."""
    return f"![{words}](data:image/png;base64,{base64.b64encode(png).decode()})"
