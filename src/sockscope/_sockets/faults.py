"""The survey of errors on a stream: what each errno means, and why.

Whatever is not named here breaks the stream: its first fatal error is kept, what
had arrived before is delivered, then the error, each time, never ``b""``.
"""

from __future__ import annotations

import errno
from typing import Final

#: The call was wrong, the stream is as it was: raised as it is, nothing is kept.
CALLERS_FAULT: Final = {
    errno.EOPNOTSUPP: "a flag that this kind of socket does not have",
    errno.EMSGSIZE: "a message larger than the socket takes in one piece",
    errno.EINVAL: "a flag or size that makes no sense here",
    errno.EPERM: "the peer takes no descriptors (pass_rights off), or a rule forbids the send",
    errno.ETOOMANYREFS: "too many descriptors of this user are on their way already",
    errno.EDESTADDRREQ: "not connected, on a socket of messages",
    # Somebody closed the number under us by os.close: loud, since the next socket
    # may have the same number. What *we* closed never comes here.
    errno.EBADF: "the descriptor was closed behind the socket's back",
    errno.ENOTSOCK: "the descriptor was closed and is something else now",
}

#: What the system says on a socket that never was connected, by call and system.
NOT_CONNECTED: Final = frozenset({errno.ENOTCONN, errno.EPIPE})

#: Errors of shutdown(2) that only say that the peer was faster (reset or gone).
ALREADY_GONE: Final = frozenset({errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET, errno.EINVAL})
