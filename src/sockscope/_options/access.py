"""One option of one socket: read and changed at run time."""

from __future__ import annotations

import errno
from typing import Any

from sockscope._core.errors import OptionError, UnsupportedOptionError
from sockscope._options import kinds
from sockscope._options.kernel import (
    SocketLike,
    failed,
    read_value,
    unsuited,
    unwrap,
)
from sockscope._options.model import Phase
from sockscope._options.plan import apply_now
from sockscope._options.table import find
from sockscope._options.values import SocketOptions


def get_option(sock: SocketLike, name: str) -> Any:
    """What the kernel holds for an option, in its own figures. Not a checkpoint.

    Buffer sizes read double on Linux, for its own overhead. ``keepalive`` is True with the
    system's own timing, and a `KeepAlive` with another; False if it is off.

    Args:
      sock: a socket of sockscope's, of Trio's or of the standard library's.
      name: the option, one that is only read included (``"tcp_info"`` ...).

    Raises:
      UnknownOptionError: there is no such option; the message gives the nearest one.
      UnsupportedOptionError: the system, or this kind of socket, does not have it.
      OptionError: it cannot be read, or not now.
    """
    option = find(name)
    raw = unwrap(sock)
    kind = kinds.kind_of(raw.family, raw.type)
    if option.user and raw is not sock:
        return getattr(sock, name)
    try:
        problem = unsuited(option, kind)
        if problem is None and not option.is_readable(kind):
            problem = OSError(errno.ENOPROTOOPT, option.readback or "it is not given back")
        if problem is not None:
            raise problem
        value = read_value(option, raw, kind)
        return value if option.brief is None else option.brief(value, kind)
    except OSError as exc:
        raise failed(option, name, None, exc, Phase.ANY.value, verb="read") from exc


def set_option(
    sock: SocketLike,
    name: str,
    value: Any,
    *,
    missing_ok: bool = False,
    phase: str | None = None,
) -> bool:
    """Change an option. Not a checkpoint.

    Args:
      sock: a socket of sockscope's, of Trio's or of the standard library's.
      name: a field of `SocketOptions`.
      value: as there.
      missing_ok: return False where the system, or this kind of socket, does not have it.
        Lack of privilege and bad values are errors all the same.
      phase: where the socket stands, for the errors; None to find out.

    Returns:
      Whether it was set.

    Raises:
      UnknownOptionError: there is no such option; the message gives the nearest one.
      TypeError: the value is of the wrong type.
      ValueError: the value is out of range.
      UnsupportedOptionError: the system, or this kind of socket, does not have it.
      OptionError: it is only read, it came too late to take effect, or the kernel refused.
    """
    option = find(name)
    if option.phase is Phase.READ_ONLY:
        raise OptionError(
            errno.ENOPROTOOPT,
            f"cannot set {name}: it is only read",
            option=name,
            value=value,
            phase=Phase.READ_ONLY.value,
        )
    checked = option.codec.check(name, value)  # None, too, is a wrong type here
    try:
        apply_now(SocketOptions(**{name: checked}), sock, phase)
    except UnsupportedOptionError:
        if missing_ok:
            return False
        raise
    return True
