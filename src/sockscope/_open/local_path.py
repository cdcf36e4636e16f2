"""Binding a local socket to a path: permissions, stale files, long names, removal at the end.

Permissions. The kernel gives the new file the mode of the socket's own descriptor, less
the umask. So the descriptor's mode is set to nothing first; the file comes into being
closed to everybody, is given its owner and then its mode, and only then does the socket
listen. fchown before bind has no effect, and the umask, which belongs to all threads, is
left alone. Where a descriptor's mode cannot be set (other systems than Linux), that no
connection comes in before listen does the same for streams.

Stale files. Whether a socket lives at a path is asked by connecting a *datagram* socket:
a live stream socket answers EPROTOTYPE, and finds no empty connection in its queue as it
would after a stream's probe; one that is bound, and about to listen, answers likewise.

Races. bind(2) itself is atomic, so the first to bind a free path wins. A race is only in
replacing: two servers find the same stale file, one replaces it, and the other then
removes the first one's new file. So files are removed only under a lock, after a probe
under the same lock. The lock is a file beside the path, which is there only while a stale
file is being replaced. It is not a rename of a socket that was bound elsewhere, for that
leaves the temporary name in getsockname and in every peer's getpeername for good, and
tramples on whatever came to the path in between. (For a path that is too long the kernel
can tell no name anyhow; and a hard link tramples on nothing.) Nor is it a lock on the
directory, which every user who may list it could hold for ever.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol, TypeGuard

import trio

from sockscope._addresses.values import Address, LocalAddress
from sockscope._core.errors import SocketError, socket_error
from sockscope._sockets.long_path import (
    HAS_DESCRIPTOR_PATHS,
    LONGEST_PATH,
    check_length,
    descriptor_path,
    path_descriptor,
)

if sys.platform != "win32":  # pragma: no branch  # Windows has neither these nor local sockets here
    import fcntl
    import grp
    import pwd

# Replacing takes a few milliseconds; only a process stopped half-way holds the lock longer.
_LOCK_SECONDS: Final = 5.0
_LOCK_PAUSE: Final = 0.01
# bind(2) says the one, link(2) the other.
_TAKEN: Final = (errno.EADDRINUSE, errno.EEXIST)
_DEAD: Final = errno.ECONNREFUSED
# EPERM: a datagram socket that takes messages from one peer only.
_ALIVE: Final = (0, errno.EPROTOTYPE, errno.EPERM, errno.EAGAIN)


class Permissions(NamedTuple):
    """Who may connect, in the system's numbers; None leaves it as bind(2) makes it."""

    mode: int | None
    uid: int | None
    gid: int | None


def permissions_for(
    mode: int | None, owner: int | str | None, group: int | str | None
) -> Permissions | None:
    """The checked permissions, or None if nothing is asked.

    Args:
      mode: permission bits, 0 to 0o777. Connecting needs the right to write.
      owner: a user's name or number. Giving a file away needs privilege.
      group: a group's name or number.

    Raises:
      TypeError: an argument has another type.
      ValueError: the mode is out of its range, or there is no such user or group.
    """
    if mode is None and owner is None and group is None:
        return None
    if mode is not None and (isinstance(mode, bool) or not isinstance(mode, int)):
        raise TypeError(f"mode must be an int such as 0o660, not {mode!r}")
    if mode is not None and not 0 <= mode <= 0o777:
        raise ValueError(f"mode must be 0 to 0o777, not {mode:#o}")
    return Permissions(
        mode,
        _number("owner", owner, lambda name: pwd.getpwnam(name).pw_uid),
        _number("group", group, lambda name: grp.getgrnam(name).gr_gid),
    )


def _number(argument: str, value: int | str | None, look_up: Callable[[str], int]) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return look_up(value)
        except KeyError:
            raise ValueError(f"{argument}={value!r}: there is no such name") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be a name or a number, not {value!r}")
    # -1 would mean "leave it" to chown(2).
    if not 0 <= value < 0xFFFF_FFFF:
        raise ValueError(f"{argument} must be 0 to 4294967294, not {value}")
    return value


def bind_local(
    sock: socket.socket,
    path: bytes,
    *,
    mode: int | None,
    owner: int | str | None,
    group: int | str | None,
    replace_stale: bool,
    listen: Callable[[], None],
) -> Callable[[], None]:
    """Bind *sock* to a path of the file system, and let it listen.

    It may wait for the disk, for a lock and for the look-up of a name, so it is to run
    in a worker thread, as `bind_path` does; it does not touch Trio.

    Args:
      sock: an unbound local socket. If this raises, the path is as it was before, but
        the socket may be bound: the caller closes it.
      path: of any length on Linux.
      mode: permission bits; None is what the umask leaves of 0o777.
      owner: a user's name or number, or None.
      group: a group's name or number, or None.
      replace_stale: replace the file of a socket that has ended; False refuses it.
      listen: called when the permissions are in force; nothing for a datagram socket.

    Returns:
      A function that removes the path if it is still this socket's file. It holds no
      resource: who gives the path up with the socket just forgets it.

    Raises:
      SocketError: what failed and at which path; of the builtin class of its errno.
        ``EADDRINUSE``: a live socket is there, or a stale one that is not to be
        replaced; ``EEXIST``: something that is no socket (a symbolic link is none).
      TypeError, ValueError: see `permissions_for`.

    Source: bind(2), unix(7); ``:local-filename`` (seed 004).
    """
    permissions = permissions_for(mode, owner, group)
    address = LocalAddress(path)
    check_length(path)
    with _step(f"bind to {address}"):
        if permissions is not None:
            _close_to_others(sock, address)
        # Where the process goes later is not where the path is.
        absolute = os.path.join(os.getcwdb(), path)
        with _creating(sock, path) as create:
            _create_or_replace(create, absolute, address, replace_stale=replace_stale)
        release = functools.partial(_remove_own, absolute, os.lstat(absolute))
    try:
        if permissions is not None:
            _permit(absolute, permissions, address)
        with _step(f"listen on {address}"):
            listen()
    except BaseException:
        release()
        raise
    return release


def is_path(address: Address | None) -> TypeGuard[LocalAddress]:
    """Whether a file stands for *address*."""
    return isinstance(address, LocalAddress) and address.path[:1] not in (b"", b"\0")


class PathArguments(Protocol):
    """What `make_socket` and `serve_passive` take for a local path."""

    @property
    def mode(self) -> int | None:
        """Permission bits."""
        ...

    @property
    def owner(self) -> int | str | None:
        """A user."""
        ...

    @property
    def group(self) -> int | str | None:
        """A group."""
        ...

    @property
    def replace_stale(self) -> bool:
        """Whether the file of a socket that has ended gives way."""
        ...


async def bind_path(
    sock: socket.socket,
    address: LocalAddress,
    arguments: PathArguments,
    listen: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """`bind_local` in a worker thread: the file system, or a look-up, may be slow.

    Once begun it is not abandoned: somebody has to know what it made.
    """
    bind = functools.partial(
        bind_local,
        sock,
        address.path,
        mode=arguments.mode,
        owner=arguments.owner,
        group=arguments.group,
        replace_stale=arguments.replace_stale,
        listen=listen,
    )
    return await trio.to_thread.run_sync(bind)


@contextmanager
def _step(step: str) -> Generator[None, None, None]:
    """Name the step in any error of the system."""
    try:
        yield
    except SocketError:
        raise  # it says what it is already
    except OSError as exc:
        raise socket_error(exc, step) from exc


@contextmanager
def _creating(sock: socket.socket, path: bytes) -> Generator[Callable[[], None], None, None]:
    """A function that makes the socket's file, or raises that something is there.

    A path that is too long for bind is the second, later the only, name (a hard link, which
    replaces nothing) of a file that is bound by way of a descriptor of its directory.

    What the kernel tells of such a socket, to getsockname and to the readers of its
    datagrams, is the path of bind: ``/proc/self/fd/9/.sockscope-...``. Whoever answers to
    that gets an error, for no file has the random name any longer; the socket's own name
    there would lead another process into whatever directory it has as descriptor 9. There
    is no way to have the true name told: the structure has no room for it, a short symbolic
    link would have to outlive the socket somewhere that everybody can reach, and the working
    directory belongs to all threads. So `from_sockaddr` reports such a peer as unnamed.
    """
    if len(path) <= LONGEST_PATH:
        yield lambda: sock.bind(path)
        return
    with path_descriptor(os.path.dirname(path) or b".", os.O_DIRECTORY) as fd:
        temporary = b"%s/.sockscope-%s" % (descriptor_path(fd), secrets.token_hex(8).encode())
        sock.bind(temporary)
        try:
            yield lambda: os.link(temporary, path)
        finally:
            os.unlink(temporary)


def _create_or_replace(
    create: Callable[[], None], path: bytes, address: LocalAddress, *, replace_stale: bool
) -> None:
    try:
        create()
        return
    except OSError as exc:
        if exc.errno not in _TAKEN:
            raise
    if not replace_stale:
        _refuse_other_files(path, address)
        raise SocketError(
            errno.EADDRINUSE, f"cannot bind to {address}: a socket is there (replace_stale=False)"
        )
    with _replacing(path):
        _remove_stale(path, address)
        create()


def _refuse_other_files(path: bytes, address: LocalAddress) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise SocketError(
            errno.EEXIST,
            f"cannot bind to {address}: something that is not a socket is there;"
            " remove it, or choose another path",
        )


def _remove_stale(path: bytes, address: LocalAddress) -> None:
    """Remove the file of a socket that has ended; the lock is held.

    Raises:
      SocketError: a live socket is there, or none at all.
      OSError: there is no telling, or no removing it.
    """
    try:
        _refuse_other_files(path, address)
    except FileNotFoundError:
        return  # its server has removed it a moment ago
    answer = _probe(path)
    if answer in _ALIVE:
        raise SocketError(errno.EADDRINUSE, f"cannot bind to {address}: a live socket is there")
    if answer not in (_DEAD, errno.ENOENT):
        raise OSError(answer, f"no telling whether a live socket is there: {os.strerror(answer)}")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # its server has removed it a moment ago


def _probe(path: bytes) -> int:
    """The errno of connecting a datagram socket to *path*, which disturbs nobody there."""
    with (
        path_descriptor(path, os.O_NOFOLLOW) as fd,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe,
    ):
        probe.setblocking(False)
        return probe.connect_ex(descriptor_path(fd) if HAS_DESCRIPTOR_PATHS else path)


@contextmanager
def _replacing(path: bytes) -> Generator[None, None, None]:
    """Hold the lock under which alone a stale file at *path* is removed.

    The lock is of the kernel, and ends with the process; a file that a killed one has
    left behind is locked, and removed, by the next.
    """
    directory, name = os.path.split(path)
    # Hashed, so that it is never too long, and never the lock file of somebody else.
    digest = hashlib.sha256(name).hexdigest()[:32]
    lock = os.path.join(directory, b".sockscope-" + digest.encode() + b".lock")
    fd = _take_lock(lock)
    try:
        yield
    finally:
        try:
            os.unlink(lock)  # while it is held: who waits for it sees that it is gone
        except OSError:
            pass  # somebody has tidied up; an empty file left is no reason to fail
        os.close(fd)


def _take_lock(lock: bytes) -> int:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fd = _try_lock(lock)
        except OSError as exc:
            # It may be another user's: then that one is replacing the file now.
            raise OSError(exc.errno, f"no lock by {os.fsdecode(lock)}: {exc.strerror}") from exc
        if fd is not None:
            return fd
        if time.monotonic() > deadline:
            message = f"another process is replacing it: {os.fsdecode(lock)} is locked"
            raise OSError(errno.EADDRINUSE, message)
        time.sleep(_LOCK_PAUSE)


def _try_lock(lock: bytes) -> int | None:
    """A descriptor of *lock*, if the lock is ours and *lock* still the name of that file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(lock, flags, 0o600)
    is_ours = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(os.fstat(fd), os.lstat(lock))
    except (BlockingIOError, FileNotFoundError):
        pass  # another process has it, or has just removed it
    finally:
        if not is_ours:
            os.close(fd)
    return fd if is_ours else None


def _close_to_others(sock: socket.socket, address: LocalAddress) -> None:
    """Let the file that bind(2) will make be closed to everybody."""
    if HAS_DESCRIPTOR_PATHS:
        os.fchmod(sock.fileno(), 0)
    elif sock.type == socket.SOCK_DGRAM:
        # Messages come in from bind on, and here the file's mode is the umask's at first.
        raise SocketError(
            errno.EOPNOTSUPP,
            f"cannot bind to {address}: this system has no way to set the mode, owner or group"
            " of a datagram socket before the first message can come in;"
            " bind it within a directory that is closed to others",
        )


def _permit(path: bytes, permissions: Permissions, address: LocalAddress) -> None:
    """Give the file its owner, and then its mode: the old owner's group gets nothing."""
    if not HAS_DESCRIPTOR_PATHS:
        _permit_by_path(path, permissions, address)
        return
    with _step(f"set the permissions of {address}"):
        mode = 0o777 & ~_umask() if permissions.mode is None else permissions.mode
        # Once it is another user's, that user may put a link in its place.
        with path_descriptor(path, os.O_NOFOLLOW) as fd:
            _change(descriptor_path(fd), permissions._replace(mode=mode), address, follow=True)


def _permit_by_path(path: bytes, permissions: Permissions, address: LocalAddress) -> None:
    follow = os.chmod not in os.supports_follow_symlinks
    _change(path, permissions, address, follow=follow)


def _change(path: bytes, permissions: Permissions, address: LocalAddress, *, follow: bool) -> None:
    mode, uid, gid = permissions
    if uid is not None or gid is not None:
        with _step(f"set the owner of {address} to uid {uid}, gid {gid}"):
            os.chown(
                path,
                -1 if uid is None else uid,
                -1 if gid is None else gid,
                follow_symlinks=follow,
            )
    if mode is not None:
        with _step(f"set the mode of {address} to {mode:#o}"):
            os.chmod(path, mode, follow_symlinks=follow)


def _umask() -> int:
    """The umask, read without changing it: umask(2) would, in all threads."""
    with open("/proc/self/status", "rb") as status:
        line = next(line for line in status if line.startswith(b"Umask:"))
    return int(line.split()[1], 8)


def _remove_own(path: bytes, ours: os.stat_result) -> None:
    """Remove *path* if it is still the file that was *ours*; never raises."""
    try:
        if os.path.samestat(os.lstat(path), ours):
            os.unlink(path)
    except OSError:
        pass  # it is gone, or out of reach: a stale file, which the next server replaces
