"""How a datagram socket receives: one by one, in batches, and past other people's errors."""

from __future__ import annotations

import errno
import functools
import math
import operator
import select
import socket as stdlib_socket
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._addresses.values import Address
from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import DatagramError, TruncatedError, socket_error
from sockscope._sockets.ancillary_datagram import (
    ROOM_FOR_ALL,
    UDP,
    UDP_GRO,
    is_link_local,
    reported,
)
from sockscope._sockets.base import AF_UNIX, error_of
from sockscope._sockets.datagram_state import DatagramState
from sockscope._sockets.datagram_types import Datagram
from sockscope._sockets.error_queue import NETWORK_ERRORS, read_error_queue
from sockscope._sockets.message_vector import (
    MOST_MESSAGES,
    ROOM,
    Extras,
    receive_vector,
    unpack_name,
)

_T = TypeVar("_T")
_PEEK: Final = stdlib_socket.MSG_PEEK
_TRUNCATED: Final = stdlib_socket.MSG_TRUNC
# Each pending error is consumed by being told: more in a row than this are no such errors.
_ERRORS_IN_A_ROW: Final = 16
_NOTHING_REPORTED: Final = (None, None, None, None, None, None)
_NO_EXTRAS: Final[Extras] = ([], False)
_SEGMENT_SIZE: Final = (UDP, UDP_GRO)
# The system has no such call, a sandbox forbids it, or there is no memory for the room that
# it needs: a single call tells whether anything else is wrong.
_REFUSES_VECTORS: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.ENOMEM})
# For fewer messages than that, single calls are quicker.
_WORTH_A_VECTOR: Final = 4
_INT: Final = struct.Struct("i")

# The kernel says so in poll once nothing more can be received (SHUT_RD).
_POLLRDHUP: Final[int] = getattr(select, "POLLRDHUP", 0)

_new = tuple.__new__


class Receiving(DatagramState):
    """The receiving half of `DatagramSocket`."""

    __slots__ = ()

    async def receive_from(
        self,
        max_size: int = 65535,
        *,
        peek: bool = False,
        dont_wait: bool = False,
        strict: bool = False,
    ) -> Datagram:
        """Receive one datagram.

        Args:
          max_size: how many of its bytes at most; the rest of a longer one is lost, and
            ``truncated`` set.
          peek: leave it in the queue (MSG_PEEK).
          dont_wait: only one that is there at once (MSG_DONTWAIT).
          strict: raise where a datagram was cut.

        Returns:
          A `Datagram`; its data may be empty, which is no end of anything.

        Raises:
          DatagramError: the network said that a datagram sent before did not arrive; its
            ``address`` says whereto. Each is told once, and the socket goes on working. A
            connected socket hears of refusals, one with ``receive_errors`` of everything,
            any other of nothing.
          TruncatedError: *strict*, and the datagram was longer; the cut one is in
            ``.datagram``, and gone from the queue, unless it was only peeked at.
          trio.WouldBlock: *dont_wait*, and there is none.
          trio.ClosedResourceError: the socket is closed, maybe just now, or was shut down
            for receiving and everything that had come is received.
          trio.BusyResourceError: another task is receiving.

        A checkpoint. When cancelled, nothing was received.
        Source: recvmsg(2), udp(7); IOLib's ``receive-from`` (seed 003).
        """
        if type(max_size) is not int or max_size < 0:
            max_size = _check_size(max_size, "max_size")
        flags = _PEEK if peek else 0
        if self._receiving:
            raise _busy()
        self._receiving = True
        try:
            await checkpoint_if_cancelled()
            try:
                datagram = self._take(max_size, flags)
            except OSError as exc:
                attempt = functools.partial(self._take, max_size, flags)
                datagram = await self._past(exc, attempt, dont_wait)
            else:
                await cancel_shielded_checkpoint()
        finally:
            self._receiving = False
        if strict:
            refuse_truncated(datagram, max_size, peek=peek)
        return datagram

    async def receive_from_into(self, buffer: bytearray | memoryview) -> Datagram:
        """Receive one datagram into a buffer of the caller's.

        Args:
          buffer: a writable buffer; of a longer datagram the rest is lost.

        Returns:
          A `Datagram` whose ``data`` is a `memoryview` of the part of *buffer* that was
          filled.

        Raises:
          As `receive_from`.

        A checkpoint. When cancelled, nothing was received.
        Source: recvmsg(2).
        """
        if self._receiving:
            raise _busy()
        view = memoryview(buffer).cast("B")
        self._receiving = True
        try:
            await checkpoint_if_cancelled()
            try:
                datagram = self._take_into(view)
            except OSError as exc:
                attempt = functools.partial(self._take_into, view)
                return await self._past(exc, attempt, dont_wait=False)
            await cancel_shielded_checkpoint()
            return datagram
        finally:
            self._receiving = False

    async def receive_many(
        self, max_count: int = 64, *, max_wait: float = math.inf
    ) -> list[Datagram]:
        """Receive what is there, at least one datagram: one checkpoint for many.

        Args:
          max_count: how many datagrams at most.
          max_wait: seconds to wait for the first; 0 takes only what is there.

        Returns:
          The datagrams, in the order in which they came; empty only if *max_wait* passed.

        Raises:
          As `receive_from`; never in place of datagrams that have been taken.

        The first call lets the kernel join the trains that one `send_many` sent (UDP_GRO),
        so that one system call receives dozens; they are handed out as they were sent.
        What trains bring beyond *max_count* is what the next receive gives.

        A checkpoint. When cancelled, nothing was received.
        Source: recvmmsg(2), udp(7).
        """
        count = _check_size(max_count, "max_count")
        if not count:
            raise ValueError("max_count must be at least 1, not 0")
        check_timeout(max_wait, "max_wait")
        if self._receiving:
            raise _busy()
        self._receiving = True
        try:
            await checkpoint_if_cancelled()
            self._let_kernel_join()
            try:
                batch = self._take_batch(count)
            except OSError as exc:
                return await self._wait_for_batch(exc, count, max_wait)
            await cancel_shielded_checkpoint()
            return batch
        finally:
            self._receiving = False

    def _take(self, size: int, flags: int = 0) -> Datagram:
        """One datagram, without waiting."""
        if self._pending or self._errors or self._room:
            return self._take_carefully(size, flags)
        data, sender = self._sock.recvfrom(ROOM if size < ROOM else size + 1, flags)
        address = self._senders.get(sender) or self._sender(sender)
        if not flags:
            self._received += 1
        if len(data) > size:
            return Datagram(data[:size], address, truncated=True)
        # Four times as fast as calling the class.
        return _new(Datagram, (data, address, False, None, None, None, None, None, None))

    def _take_carefully(self, size: int, flags: int) -> Datagram:
        """One datagram, where there is more to it than recvfrom(2)."""
        self._check_open()
        if self._errors:
            raise self._errors.popleft()
        if not self._pending:
            found = self._take_train(ROOM if size < ROOM else size + 1, flags)
            datagram = found[0]
            if not flags:
                self._pending.extend(found[1:])
        else:
            datagram = self._pending[0] if flags else self._pending.pop(0)
        return cut(datagram, size)

    def _take_train(self, room: int, flags: int = 0) -> list[Datagram]:
        """What one recvmsg(2) gives: a datagram, or those that the kernel has joined."""
        data, messages, got, sender = self._sock.recvmsg(room, self._room, flags)
        found = self._datagrams(data, self._sender(sender), messages, bool(got & _TRUNCATED))
        if not flags:
            self._received += len(found)
        return found

    def _datagrams(
        self, data: bytes, address: Address, messages: Any, is_cut: bool
    ) -> list[Datagram]:
        """What came as one: a datagram, or those that the kernel has joined."""
        reports, size = self._read_reports(messages, len(data))
        if size >= len(data):
            return [_new(Datagram, (data, address, is_cut, *reports))]
        # What a batch of a million a second is made of.
        to, interface, hops, traffic_class, timestamp, dropped = reports
        return [
            _new(
                Datagram,
                (piece, address, is_cut, to, interface, hops, traffic_class, timestamp, dropped),
            )
            for piece in _split(data, size)
        ]

    def _read_reports(self, messages: Any, length: int) -> tuple[tuple[Any, ...], int]:
        """The fields of the datagrams that are reports, and the size of each but the last."""
        if not self._requested.receive_drops:
            if not messages:
                return _NOTHING_REPORTED, length
            if len(messages) == 1 and messages[0][:2] == _SEGMENT_SIZE:
                return _NOTHING_REPORTED, _INT.unpack(messages[0][2])[0]
        reports = reported(self._requested, messages)
        host = reports.destination
        destination = None
        if host is not None:
            destination = self._destination(host, reports.interface, scoped=is_link_local(host))
            if reports.is_shared:
                self._shared_hosts.add(host)
        fields = (
            destination,
            reports.interface,
            reports.hops,
            reports.traffic_class,
            reports.timestamp,
            reports.dropped,
        )
        return fields, reports.segment or length

    def _take_into(self, view: memoryview) -> Datagram:
        """One datagram into *view*, without waiting."""
        if self._pending or self._errors or self._room or not hasattr(self._sock, "recvmsg_into"):
            datagram = self._take(len(view))
            size = len(datagram.data)
            view[:size] = datagram.data
            return datagram._replace(data=view[:size])  # type: ignore[arg-type]  # as documented
        # The byte beyond shows what was cut.
        size, _, _, sender = self._sock.recvmsg_into([view, bytearray(1)])
        self._received += 1
        address = self._senders.get(sender) or self._sender(sender)
        return Datagram(view[:size], address, truncated=size > len(view))  # type: ignore[arg-type]  # as documented

    def _take_batch(self, count: int) -> list[Datagram]:
        """Up to *count* datagrams, without waiting, or what the first of them met with."""
        self._check_open()
        if self._errors:
            raise self._errors.popleft()
        found = self._pending[:count]
        del self._pending[:count]
        try:
            self._take_more(found, count)
        except OSError as exc:
            if not found:
                raise
            if not isinstance(exc, BlockingIOError):
                self._keep_for_later(exc)
        if len(found) > count:
            self._pending.extend(found[count:])
            del found[count:]
        return found

    async def _wait_for_batch(self, exc: OSError, count: int, max_wait: float) -> list[Datagram]:
        attempt = functools.partial(self._take_batch, count)
        if max_wait == math.inf:
            return await self._past(exc, attempt, dont_wait=False)
        with deadline_after(max_wait):
            return await self._past(exc, attempt, dont_wait=False)
        return []

    def _take_more(self, found: list[Datagram], count: int) -> None:
        """Fill *found* up to *count*, or some trains beyond, until something is met with."""
        while (missing := count - len(found)) > 0:
            # What trains bring beyond *count* has to be kept for the next receive.
            messages = min(missing // self._train if self._room else missing, MOST_MESSAGES)
            if messages >= _WORTH_A_VECTOR and self._receives_vectors:
                if not self._take_vector(found, messages):
                    return
            elif self._room:
                train = self._take_train(ROOM)
                self._train = len(train)
                found += train
            else:
                self._take_plain(found, count)

    def _take_vector(self, found: list[Datagram], count: int) -> bool:
        """Add what one recvmmsg(2) of *count* messages gives; whether there may be more."""
        try:
            pieces, names, extras = receive_vector(ROOM_FOR_ALL).receive(
                self._sock.fileno(), self._family, count, self._room
            )
        except OSError as exc:
            if exc.errno not in _REFUSES_VECTORS:
                raise
            self._receives_vectors = False
            return True
        senders, new_sender = self._senders, self._sender_named
        addresses = [senders.get(name) or new_sender(name) for name in names]
        before = len(found)
        if extras is None and not self._requested.receive_drops:
            found += [
                _new(Datagram, (data, address, False, None, None, None, None, None, None))
                for data, address in zip(pieces, addresses, strict=True)
            ]
        else:
            extras = extras or [_NO_EXTRAS] * len(pieces)
            for data, address, extra in zip(pieces, addresses, extras, strict=True):
                found += self._datagrams(data, address, *extra)
        taken = len(found) - before
        self._received += taken
        self._train = taken // len(pieces)
        return len(pieces) == count

    def _sender_named(self, name: Any) -> Address:
        return self._new_sender(name, unpack_name(name))

    def _take_plain(self, found: list[Datagram], count: int) -> None:
        """Fill *found* up to *count* by recvfrom(2), until it raises."""
        receive, senders = self._sock.recvfrom, self._senders
        before = len(found)
        try:
            while len(found) < count:
                data, sender = receive(ROOM)
                address = senders.get(sender) or self._sender(sender)
                if len(data) == ROOM:
                    found.append(Datagram(data[:-1], address, truncated=True))
                else:
                    fields = (data, address, False, None, None, None, None, None, None)
                    found.append(_new(Datagram, fields))
        finally:
            self._received += len(found) - before

    def _keep_for_later(self, exc: OSError) -> None:
        """Keep what *exc* tells for the next receive: this one has datagrams to hand out."""
        if exc.errno in NETWORK_ERRORS:
            reports, suspected, _ = self._network_errors(exc)
            self._errors.extend(reports or ([suspected] if suspected else []))

    async def _past(self, exc: OSError, attempt: Callable[[], _T], dont_wait: bool) -> _T:
        """Try *attempt*, which has failed with *exc*, until it succeeds or must fail."""
        woken = False
        errors = 0
        while True:
            if isinstance(exc, BlockingIOError):
                if woken:
                    self._woken_for_nothing()
                if dont_wait:
                    raise trio.WouldBlock from None
                await self._wait_for_data()
                woken = True
            else:
                errors += 1
                self._check_error(exc, errors)
            try:
                result = attempt()
            except OSError as latest:
                exc = latest
                continue
            if not woken:
                await cancel_shielded_checkpoint()
            return result

    async def _wait_for_data(self) -> None:
        if self._read_ended:
            raise trio.ClosedResourceError("cannot receive after shutdown(read=True)")
        try:
            await self._wait(self._wait_readable)
        except OSError as exc:
            raise error_of(exc, self, f"wait for the socket {self._describe()}") from exc

    def _check_error(self, exc: OSError, count: int) -> None:
        """Raise what *exc* means, unless it is about a datagram of nobody's."""
        if not self.is_open:
            raise error_of(exc, self, "receive") from exc
        if isinstance(exc, DatagramError):
            raise exc
        if exc.errno not in NETWORK_ERRORS or count > _ERRORS_IN_A_ROW:
            raise socket_error(exc, f"receive on {self._describe()}") from exc
        self._keep_for_later(exc)
        if self._errors:
            raise self._errors.popleft() from exc

    def _woken_for_nothing(self) -> None:
        """The kernel said readable, but there is nothing: an error, or the end.

        An unread error queue and SHUT_RD both keep poll saying so for ever.
        """
        if self._family != AF_UNIX:
            self._errors.extend(read_error_queue(self._sock)[0])
        if self._errors:
            raise self._errors.popleft()
        if _POLLRDHUP and not self._read_ended:
            poll = select.poll()
            poll.register(self._sock, _POLLRDHUP)
            self._read_ended = any(events & _POLLRDHUP for _, events in poll.poll(0))


@functools.lru_cache(maxsize=128)
def _splitter(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * count)


def _split(data: bytes, size: int) -> tuple[bytes, ...]:
    """*data* in pieces of *size* bytes, the last one maybe shorter."""
    count, rest = divmod(len(data), size)
    pieces: tuple[bytes, ...] = _splitter(size, count).unpack_from(data)
    return (*pieces, data[-rest:]) if rest else pieces


def _busy() -> trio.BusyResourceError:
    return trio.BusyResourceError("another task is already receiving from this socket")


def _check_size(size: int, argument: str) -> int:
    size = operator.index(size)  # a TypeError for what is no whole number
    if size < 0:
        raise ValueError(f"{argument} must be 0 or more, not {size}")
    return size


def cut(datagram: Datagram, size: int) -> Datagram:
    """*datagram*, of which at most *size* bytes are wanted."""
    if len(datagram.data) <= size:
        return datagram
    return datagram._replace(data=datagram.data[:size], truncated=True)


def refuse_truncated(datagram: Datagram, size: int, *, peek: bool = False) -> None:
    """Raise `TruncatedError` if *datagram* was cut."""
    if not datagram.truncated:
        return
    rest = "it is still in the queue, whole" if peek else "the rest is lost"
    raise TruncatedError(
        errno.EMSGSIZE,
        f"a datagram from {datagram.address} was longer than max_size={size}; {rest}",
        data=datagram.data,
        datagram=datagram,
    )
