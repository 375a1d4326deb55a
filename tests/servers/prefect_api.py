"""Asking a Prefect server, as a page of its does."""

import json
import urllib.request
from base64 import b64encode
from typing import Any


def ask(url: str, body: dict[str, Any] | None = None, login: str | None = None, method: str = "POST") -> Any:
    """What it answers; `login` is USER:PASSWORD."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    data = None if method == "GET" else json.dumps(body or {}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
        return json.loads(answer.read() or "null")
