"""A load generator for the service: clients that ask real questions, each the next as soon as one is answered.

It runs as a process of its own, so that its work is not the server's, and knows nothing of what answers it:
`python -m retrieval.benchmarks.load < plan.json > tally.json`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class Plan:
    """Which paths are asked by how many clients for how long. A client told 429 waits as long as it was told to, at
    most `longest_wait` seconds."""

    url: str
    paths: list[str]
    clients: int
    seconds: float
    longest_wait: float = 1.0
    key: str | None = None


@dataclass(slots=True)
class Tally:
    """What came back: milliseconds of each answered request, counts by status ("broken" where the connection was), the
    generations that answered, and the first few unlike answers in full."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def fire(plan: Plan) -> Tally:
    """Runs a plan to its end."""
    tally = Tally()
    headers = {} if plan.key is None else {"X-API-Key": plan.key}
    started = time.perf_counter()
    stop = started + plan.seconds
    async with aiohttp.ClientSession(
        plan.url, connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=aiohttp.ClientTimeout(total=60)
    ) as session:
        await asyncio.gather(*(_client(session, plan, number, stop, tally) for number in range(plan.clients)))
    tally.seconds = time.perf_counter() - started
    return tally


async def _client(session: aiohttp.ClientSession, plan: Plan, number: int, stop: float, tally: Tally) -> None:
    turn = number * len(plan.paths) // plan.clients  # each begins elsewhere, so that few ask the same at once
    while (begun := time.perf_counter()) < stop:
        path = plan.paths[turn % len(plan.paths)]
        turn += 1
        try:
            async with session.get(path) as answer:
                body = await answer.read()
                status, wait = answer.status, answer.headers.get("Retry-After", "1")
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.statuses["broken"] += 1
            _remember(tally, f"{path}: {type(error).__name__} {error}")
            await asyncio.sleep(0.1)
            continue
        tally.statuses[str(status)] += 1
        if status == 200:
            tally.milliseconds.append(1e3 * (time.perf_counter() - begun))
            start = body.find(b'"generation":"')
            tally.generations[body[start + 14 : start + 24].decode() if start >= 0 else "?"] += 1
        elif status == 429:
            await asyncio.sleep(min(plan.longest_wait, float(wait)))
        else:
            _remember(tally, f"{path}: {status} {body[:300]!r}")


def _remember(tally: Tally, line: str) -> None:
    if len(tally.odd) < 5:
        tally.odd.append(line)


def tally_from(raw: dict[str, Any]) -> Tally:
    return Tally(**{**raw, "statuses": Counter(raw["statuses"]), "generations": Counter(raw["generations"])})


def main() -> None:
    tally = asyncio.run(fire(Plan(**json.load(sys.stdin))))
    json.dump({name: getattr(tally, name) for name in Tally.__slots__}, sys.stdout)  # asdict breaks a Counter in 3.11


if __name__ == "__main__":
    main()
