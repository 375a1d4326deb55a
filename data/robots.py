"""robots.txt (RFC 9309), fetched once a site and kept for the worker's life."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from protego import Protego
from yarl import URL

ROBOTS_BYTES = 500 * 1024
SITES = 20_000  # kept a worker; the one unused for longest goes first


class Robots:
    """What the sites allow us."""

    def __init__(self, get: Callable[[URL], Awaitable[bytes | None]], user_agent: str) -> None:
        self.get = get
        self.user_agent = user_agent
        self.rules: OrderedDict[URL, asyncio.Task[Protego | None]] = OrderedDict()

    async def allows(self, url: URL) -> bool | None:
        """Whether a URL may be fetched; None where its robots.txt can't be had now, which forbids it for now."""
        site = url.origin()
        task = self.rules.get(site)
        if task is None:
            task = self.rules[site] = asyncio.create_task(self._load(site))
            while len(self.rules) > SITES:
                self.rules.popitem(last=False)
        self.rules.move_to_end(site)
        rules = await asyncio.shield(task)
        if rules is None:
            self.rules.pop(site, None)  # ask again at the next URL
            return None
        return bool(rules.can_fetch(str(url), self.user_agent))

    async def _load(self, site: URL) -> Protego | None:
        text = await self.get(site / "robots.txt")
        return None if text is None else Protego.parse(text.decode("utf-8", "replace"))
