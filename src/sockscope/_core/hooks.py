"""What users' hooks give back."""

from __future__ import annotations

import inspect


def refuse_awaitable(result: object, hook: str) -> None:
    """Refuse what a plain hook must not give: an ``async def`` that nobody would await.

    Args:
      result: what the hook has returned; anything else is its own business.
      hook: the argument's name.

    Raises:
      TypeError: it is awaitable: the hook has done nothing.
    """
    if result is None or not inspect.isawaitable(result):
        return
    if inspect.iscoroutine(result):
        result.close()  # or it would warn, too, that it was never awaited
    raise TypeError(f"{hook} must be a plain function: what it returned would have to be awaited")
