"""Options back from a socket: all of them, or what became of those that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sockscope._options import kinds
from sockscope._options.codec import BufferSize
from sockscope._options.judge import Question, ignored, is_there, judge
from sockscope._options.kernel import (
    NOT_APPLIED,
    UNSUPPORTED,
    Label,
    SocketLike,
    failed,
    matches,
    read_value,
    unsuited,
    unwrap,
)
from sockscope._options.model import Option, Phase, RawSocket
from sockscope._options.plan import Stated, extra_row, extra_step
from sockscope._options.table import SETTABLE


@dataclass(frozen=True)
class OptionResult:
    """What became of one option.

    Attributes:
      requested: the value asked for.
      effective: what the kernel holds, in its own figures; None if it does not tell.
      reason: why they differ, or why it does nothing; None if there is nothing to say.
      ok: whether it is in effect as asked, be it in the kernel's way (doubled, rounded up).
    """

    requested: Any
    effective: Any
    reason: str | None = None
    ok: bool = True


class Report(Mapping[Label, OptionResult]):
    """What became of each option: by name, and by ``(level, name)`` for an extra one."""

    def __init__(self, results: Mapping[Label, OptionResult]) -> None:
        self._results = dict(results)

    def __getitem__(self, name: Label) -> OptionResult:
        return self._results[name]

    def __iter__(self) -> Iterator[Label]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Report({self._results!r})"

    @property
    def ok(self) -> bool:
        """Whether every option is in effect as asked."""
        return all(result.ok for result in self._results.values())


def read_options(sock: SocketLike) -> dict[str, Any]:
    """What to set so that another socket becomes like *sock*."""
    raw = unwrap(sock)
    kind = kinds.kind_of(raw.family, raw.type)
    values = {}
    for option in SETTABLE:
        if option.user:
            values[option.name] = getattr(sock, option.name, None)
        elif option.copied and option.is_readable(kind):
            values[option.name] = _settable_value(option, raw, kind)
    return values


def _settable_value(option: Option, raw: RawSocket, kind: str) -> Any:
    """What the kernel holds, as it is set; None where this system has no such option."""
    try:
        value = read_value(option, raw, kind)
    except OSError as exc:
        if exc.errno in UNSUPPORTED:
            return None
        raise failed(option, option.name, None, exc, Phase.ANY.value, verb="read") from exc
    return value // BufferSize.factor if isinstance(option.codec, BufferSize) else value


def check_options(options: Stated, sock: SocketLike) -> Report:
    """What became of each of *options* on *sock*."""
    raw = unwrap(sock)
    kind = kinds.kind_of(raw.family, raw.type)
    results: dict[Label, OptionResult] = {}
    stated = {option.name: value for option, value in options.stated()}
    for option, value in options.stated():
        results[option.name] = (
            _check_timer(option, value, sock)
            if option.user
            else _check(option, value, raw, kind, stated)
        )
    for key, wanted in options.extra.items():
        results[key] = _check_extra(key, wanted, raw)
    return Report(results)


def _check_timer(option: Option, value: Any, sock: SocketLike) -> OptionResult:
    effective = getattr(sock, option.name, None)
    if effective is None:
        problem = "only streams of sockscope keep it, by Trio's clock"
        return OptionResult(value, None, problem, ok=False)
    ok = effective == value
    return OptionResult(value, effective, None if ok else NOT_APPLIED, ok=ok)


def _check_extra(key: tuple[int, int], wanted: int | bytes, raw: RawSocket) -> OptionResult:
    shown = extra_row(wanted).shown
    step = extra_step(key, wanted)
    try:
        got = step.target.read(raw, step.codec)
    except OSError as exc:
        ok = is_there(step.target, raw)
        return OptionResult(shown(wanted), None, f"cannot be read: {exc.strerror}", ok=ok)
    ok = step.codec.matches(step.raw, got)
    reason = None if ok else NOT_APPLIED
    return OptionResult(shown(wanted), shown(step.codec.unpack(got)), reason, ok=ok)


def _check(
    option: Option, value: Any, raw: RawSocket, kind: str, stated: Mapping[str, Any]
) -> OptionResult:
    requested = option.shown(value)
    problem = unsuited(option, kind)
    if problem is not None:
        return OptionResult(requested, None, problem.strerror, ok=False)
    if not option.is_readable(kind):
        return _check_unread(option, requested, raw, kind)
    try:
        effective = read_value(option, raw, kind)
        matching = matches(option, value, raw, kind)
    except OSError as exc:
        return OptionResult(requested, None, f"not in effect: {exc.strerror}", ok=False)
    if isinstance(value, bool):
        effective = bool(effective)
    ok, reason = judge(Question(option, value, effective, matching, raw, kind, stated))
    return OptionResult(requested, option.shown(effective), reason, ok=ok)


def _check_unread(option: Option, requested: Any, raw: RawSocket, kind: str) -> OptionResult:
    """Of what is not given back only this is known: whether it can have been set at all."""
    if kind in option.ignored:
        return OptionResult(requested, None, ignored(kind), ok=False)
    if not is_there(option.targets_for(kind)[0], raw):
        return OptionResult(requested, None, "not in effect: the system does not have it", ok=False)
    return OptionResult(requested, None, option.readback or "the system does not give it back")
