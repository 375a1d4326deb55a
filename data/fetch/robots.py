"""Obeys the rules of website owners for crawlers: robots.txt (RFC 9309) and the X-Robots-Tag header."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from protego import Protego

LIMIT = 500 * 1024  # bytes of a robots.txt that are read, the minimum that RFC 9309 2.5 requires
RULES_SECONDS = 24 * 3600.0  # time for which rules are cached (RFC 9309 2.4)
FAILURE_SECONDS = 300.0  # time for which a robots.txt that could not be read is not requested again
CACHE_BYTES = 16 * LIMIT  # the most bytes of all texts whose rules are cached

OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}
USER_AGENT = re.compile(r"\s*user[- ]?agent\s*:?\s*([^#]*)", re.IGNORECASE)
LINE = re.compile(r"\r\n|\r|\n")
AGENT = "imagen-dataset"
# Owners who exclude img2dataset mean this kind of crawler too, but do not know our name yet.
OUR_NAMES = (AGENT, "img2dataset")
DIRECTIVES_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one origin. Without `rules`, everything is allowed. With a `failure`, nothing is allowed for now."""

    rules: Protego | None = None
    failure: tuple[str, str, bool] | None = None  # a fetch's status, its error text, and whether it is transient
    size: int = 0

    def allow(self, url: str) -> bool:
        """Return whether the rules allow us to fetch a URL of the origin."""
        return self.rules is None or self.rules.can_fetch(url, AGENT)


def parse(body: bytes) -> Rules:
    """Parse the rules in a robots.txt. Bytes beyond `LIMIT` are ignored."""
    text = _merge_other_agents(body[:LIMIT].decode("utf-8", "replace").removeprefix("\ufeff"))
    return Rules(Protego.parse(text), size=len(text)) if text else Rules()


def _merge_other_agents(text: str) -> str:
    """Rename all other agents to one name. This does not change the rules for us.

    The parser stores each rule once per agent in its group. So a small file with many agents and many rules could use
    up all memory.
    """
    lines = []
    for line in LINE.split(text):
        match = USER_AGENT.match(line)
        if match:
            name = match[1].strip().lower().split("/")[0]
            if name in OUR_NAMES:
                name = AGENT
            elif name != "*":
                name = "another"
            line = f"User-agent: {name}"
        lines.append("".join(line.splitlines()))
    return "\n".join(lines)


class RobotsCache:
    """Caches the rules of recently requested origins. Each robots.txt is read once, however many fetches wait for it.

    Args:
        read: reads and parses the robots.txt of an origin such as `https://example.org`.
    """

    def __init__(self, read: Callable[[str], Awaitable[Rules]]) -> None:
        self._read = read
        self._cache: OrderedDict[str, tuple[float, Rules]] = OrderedDict()  # origin: when it expires, its rules
        self._size = 0
        self._reading: dict[str, asyncio.Task[Rules]] = {}

    async def rules(self, origin: str) -> Rules:
        """Return the rules of an origin, from the cache if they have not expired."""
        entry = self._cache.get(origin)
        if entry and entry[0] > time.monotonic():
            self._cache.move_to_end(origin)
            return entry[1]
        task = self._reading.get(origin)
        if task is None:
            task = self._reading[origin] = asyncio.create_task(self._load(origin))
            task.add_done_callback(lambda _: self._reading.pop(origin, None))
        return await asyncio.shield(task)  # cancelling the first caller must not cancel the read for the others

    async def _load(self, origin: str) -> Rules:
        rules = await self._read(origin)
        old = self._cache.pop(origin, None)
        lifetime = FAILURE_SECONDS if rules.failure else RULES_SECONDS
        self._cache[origin] = (time.monotonic() + lifetime, rules)
        self._size += _memory(rules) - (_memory(old[1]) if old else 0)
        while self._size > CACHE_BYTES:
            _, (_, oldest) = self._cache.popitem(last=False)
            self._size -= _memory(oldest)
        return rules

    async def close(self) -> None:
        """Cancel the reads that are still running."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _memory(rules: Rules) -> int:
    """Estimate the bytes of memory that cached rules take."""
    return rules.size + 1000


def opt_out_directive(tags: Iterable[str]) -> str | None:
    """Return the first directive in X-Robots-Tag headers that opts out of our use, or None.

    A header may address one crawler: `imagen-dataset: noai`. Headers for other crawlers are ignored.
    """
    for tag in tags:
        prefix, separator, directives = tag.lower().partition(":")
        prefix = prefix.strip()
        if not separator or "," in prefix or prefix in DIRECTIVES_WITH_VALUE:
            directives = tag.lower()
        elif prefix not in OUR_NAMES:
            continue
        for directive in directives.split(","):
            if directive.strip() in OPT_OUT:
                return directive.strip()
    return None
