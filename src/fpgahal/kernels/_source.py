# SPDX-License-Identifier: Apache-2.0
"""Where asynchronous pipelines take their batches from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Any

from fpgahal.kernels._lane import END, WAIT


class Source:
    """Batches of an ordinary iterable, for asyncio."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = iter(batches)

    def take(self) -> Any:
        return next(self._batches, END)

    async def close(self) -> None:
        pass


class AsyncSource:
    """Batches of an asynchronous iterable: one is asked for at a time, in a task of its own."""

    def __init__(self, batches: AsyncIterable[Any], news: asyncio.Event) -> None:
        self._batches = aiter(batches)
        self._news = news
        self._task: asyncio.Task[Any] | None = None

    def take(self) -> Any:
        if self._task is None:
            self._task = asyncio.ensure_future(self._next())
            self._task.add_done_callback(lambda _: self._news.set())
        if not self._task.done():
            return WAIT
        task, self._task = self._task, None
        return task.result()

    async def _next(self) -> Any:
        return await anext(self._batches, END)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


__all__ = ["AsyncSource", "Source"]
