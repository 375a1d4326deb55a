"""What owners say about the use of their pictures: robots.txt (RFC 9309), and the X-Robots-Tag header."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from protego import Protego

LIMIT = 500 * 1024  # bytes of a robots.txt that are read, the least that RFC 9309 2.5 asks for
FRESH = 24 * 3600.0  # seconds that an answer is good for (RFC 9309 2.4)
FRESH_FAILURE = 300.0
REMEMBERED = 16 * LIMIT  # bytes of all the texts whose rules are kept

OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}
USER_AGENT = re.compile(r"\s*user[- ]?agent\s*:?\s*([^#]*)", re.IGNORECASE)
LINE = re.compile(r"\r\n|\r|\n")
AGENT = "imagen-dataset"
# Owners who shut out img2dataset mean what is done here, and have never heard of us.
OUR_NAMES = (AGENT, "img2dataset")
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True, slots=True)
class Rules:
    """What one origin's robots.txt says; without rules everything is allowed, with a failure nothing is, for now."""

    rules: Protego | None = None
    failure: tuple[str, str, bool] | None = None  # a fetch's status, error in words, and whether to try again
    size: int = 0

    def allow(self, url: str) -> bool:
        return self.rules is None or self.rules.can_fetch(url, AGENT)


def parse(body: bytes) -> Rules:
    text = _without_others(body[:LIMIT].decode("utf-8", "replace").removeprefix("\ufeff"))
    return Rules(Protego.parse(text), size=len(text)) if text else Rules()


def _without_others(text: str) -> str:
    """The same rules for us, with all other agents under one name.

    The parser keeps every rule once for every agent of its group: a small file of many agents and many rules would
    take all memory.
    """
    lines = []
    for line in LINE.split(text):
        found = USER_AGENT.match(line)
        if found:
            name = found[1].strip().lower().split("/")[0]
            line = "User-agent: " + ("*" if name == "*" else AGENT if name in OUR_NAMES else "another")
        lines.append("".join(line.splitlines()))
    return "\n".join(lines)


class Robots:
    """The rules of the origins asked lately. Each robots.txt is read once, however many wait for it."""

    def __init__(self, read: Callable[[str], Awaitable[Rules]]) -> None:
        self._read = read
        self._known: OrderedDict[str, tuple[float, Rules]] = OrderedDict()
        self._size = 0
        self._reading: dict[str, asyncio.Task[Rules]] = {}

    async def rules(self, origin: str) -> Rules:
        known = self._known.get(origin)
        if known and known[0] > time.monotonic():
            self._known.move_to_end(origin)
            return known[1]
        task = self._reading.get(origin)
        if task is None:
            task = self._reading[origin] = asyncio.create_task(self._learn(origin))
            task.add_done_callback(lambda _: self._reading.pop(origin, None))
        return await asyncio.shield(task)  # the reader who came first may be cancelled, those who wait are not

    async def _learn(self, origin: str) -> Rules:
        rules = await self._read(origin)
        old = self._known.pop(origin, None)
        self._known[origin] = (time.monotonic() + (FRESH_FAILURE if rules.failure else FRESH), rules)
        self._size += _cost(rules) - (_cost(old[1]) if old else 0)
        while self._size > REMEMBERED:
            self._size -= _cost(self._known.popitem(last=False)[1][1])
        return rules

    async def close(self) -> None:
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _cost(rules: Rules) -> int:
    return rules.size + 1000


def opted_out(tags: Iterable[str]) -> str | None:
    """The directive by which X-Robots-Tag headers forbid the use of a picture; None if none does."""
    for tag in tags:
        named, separator, directives = tag.lower().partition(":")
        named = named.strip()
        if not separator or "," in named or named in VALUED:
            directives = tag.lower()
        elif named not in OUR_NAMES:
            continue
        for directive in directives.split(","):
            if directive.strip() in OPT_OUT:
                return directive.strip()
    return None
