"""How a datagram socket sends many: in trains, where the kernel cuts them (UDP_SEGMENT).

One sendmsg(2) of 54 datagrams costs a tenth of 54 of sendto(2), and one checkpoint goes
with all of a batch. What is of no train, because it goes elsewhere or has another size than
its neighbours, goes out by sendmmsg(2).

A train is a run of datagrams to one address, all of one size but for a shorter last one,
none empty, 65,507 bytes together at most. What refuses a train at run time:

| errno | why | from then on |
| --- | --- | --- |
| EINVAL | more segments than an older kernel's 64; or SO_NO_CHECK | 64, then none |
| EIO | a driver without checksum offload says so only now | none |
| EMSGSIZE | a segment is longer than the path's MTU, which a train may not be | shorter ones only |

The same datagrams then go out one by one, as plain sends would, in fragments if need be.
Only if that succeeds was it the train that was refused, and not what is in it.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from sockscope._addresses.designators import AddressLike
from sockscope._core.errors import DatagramError
from sockscope._sockets.ancillary_datagram import UDP_SEGMENT, segment_message
from sockscope._sockets.base import AF_UNIX
from sockscope._sockets.datagram_send import Data, Sending, size_of
from sockscope._sockets.datagram_state import UNKNOWN
from sockscope._sockets.message_vector import HAS_SENDMMSG, MOST_MESSAGES, SendVector

# What one send may hold: a datagram's 65,535 bytes less the IPv4 and UDP headers.
_LONGEST_TRAIN: Final = 65507
# The limit of older kernels, and the reason to try again with less.
_FEWER_SEGMENTS: Final = 64
_REFUSES_TRAINS: Final = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE})
# So many datagrams go out before other tasks get their turn, some milliseconds' worth.
_WITHOUT_CHECKPOINT: Final = 2048

_Run = tuple[list[Any], AddressLike | None, int | None]


class BatchSending(Sending):
    """The part of `DatagramSocket` that sends many."""

    __slots__ = ()

    async def send_many(self, datagrams: Iterable[tuple[Data, AddressLike | None]]) -> int:
        """Send many datagrams: a system call for dozens, a checkpoint for all of them.

        Args:
          datagrams: pairs of data and address, each as in `send_to`. Runs of equal sizes
            to one address go fastest: the kernel cuts them from one send.

        Returns:
          How many were sent: all of them.

        Raises:
          DatagramError: one cannot be sent; ``.sent`` says how many were before it, in
            order, and so which one it is.
          Otherwise as `send_to`.

        What arrives is the same, datagram for datagram, as from as many `send_to`.

        A checkpoint, and another after each 2,048. When cancelled, some may have been sent.
        Source: UDP_SEGMENT, udp(7).
        """
        sent = 0
        at_checkpoint = 0
        await checkpoint_if_cancelled()
        self._check_open()
        try:
            for run, address, size in self._runs(datagrams):
                if size is None:
                    sent += await self._send_scattered(run)
                else:
                    sent += await self._send_train(run, size, await self._target(address))
                if sent - at_checkpoint >= _WITHOUT_CHECKPOINT:
                    await checkpoint()
                    at_checkpoint = sent
        except OSError as exc:
            # Whatever it is, a look-up's error included: it says how far we came.
            vars(exc)["sent"] = sent + vars(exc).get("sent", 0)
            raise
        await cancel_shielded_checkpoint()
        return sent

    async def _target(self, address: AddressLike | None) -> Any:
        """The sockaddr to send to; a checkpoint only where a name is looked up."""
        target = self._known_target(address)
        if target is UNKNOWN:
            target = await self._look_up_target(address or self._default)  # type: ignore[arg-type]  # one is given
        return target

    def _runs(self, datagrams: Iterable[tuple[Data, AddressLike | None]]) -> Iterator[_Run]:
        """The datagrams in trains, and in groups of those that are of none, in order.

        Yields:
          A train's data, its address, and the size of each but the last; or triples of
          data, its size and address, and two of None.
        """
        scattered: list[Any] = []
        train: list[Data] = []
        current: AddressLike | None = None
        size = room = fresh_size = fresh_room = 0
        for data, address in datagrams:
            length = len(data) if type(data) is bytes else size_of(data)
            if room and 0 < length <= size and (address is current or address == current):
                if not train:
                    # The one before was not alone.
                    train.append(scattered.pop()[0])
                    if scattered:
                        yield scattered, None, None
                        scattered = []
                train.append(data)
                # A shorter one ends a train.
                room = room - 1 if length == size else 0
                continue
            if train:
                yield train, current, size
                train = []
                fresh_size = -1  # it may have been refused
            elif len(scattered) == MOST_MESSAGES:
                yield scattered, None, None
                scattered = []
            scattered.append((data, length, address))
            current = address
            size = length
            if length != fresh_size:
                fresh_size, fresh_room = length, self._room_in_train(length)
            room = fresh_room
        if train:
            yield train, current, size
        if scattered:
            yield scattered, None, None

    def _room_in_train(self, size: int) -> int:
        """How many more datagrams may follow one of *size* bytes."""
        if not 0 < size <= self._largest_segment or not self._cuts:
            return 0
        return max(0, min(self._most_segments, _LONGEST_TRAIN // size) - 1)

    @property
    def _cuts(self) -> bool:
        """Whether the kernel cuts trains on this socket, as far as we know."""
        return self._most_segments > 1 and self._family != AF_UNIX and UDP_SEGMENT is not None

    async def _send_scattered(self, group: list[tuple[Data, int, AddressLike | None]]) -> int:
        """Send datagrams that are of no train."""
        messages = []
        failure: Exception | None = None
        for data, length, address in group:
            try:
                target = self._targets.get(address) if type(address) is tuple else None
                messages.append((data, length, target or await self._target(address)))
            except Exception as exc:
                failure = exc  # those before it go out all the same
                break
        sent = await self._send_messages(messages)
        if failure is not None:
            vars(failure)["sent"] = sent
            raise failure
        return sent

    async def _send_messages(self, messages: list[tuple[Data, int, Any]]) -> int:
        sent = 0
        while sent < len(messages):
            if self._peer is None and len(messages) - sent > 1 and self._uses_vectors:
                try:
                    sent += self._send_vector(messages[sent:])
                    continue
                except OSError:
                    pass  # the first one's own: it is met with again, by itself
            data, length, target = messages[sent]
            try:
                await self._send_single(data, length, target)
            except DatagramError as exc:
                exc.sent = sent
                raise
            sent += 1
        return sent

    @property
    def _uses_vectors(self) -> bool:
        """Whether sendmmsg(2) may be used."""
        return HAS_SENDMMSG and self._family != AF_UNIX

    def _send_vector(self, messages: list[tuple[Data, int, Any]]) -> int:
        if self._vector is None:
            self._vector = SendVector(self._family)
        sent = self._vector.send(self._sock.fileno(), messages)
        self._sent += sent
        return sent

    async def _send_single(self, data: Data, length: int, target: Any) -> None:
        try:
            self._send_now(data, 0, target)
        except OSError as exc:
            attempt = functools.partial(self._send_now, data, 0, target)
            await self._send_past(exc, attempt, target, length)

    async def _send_train(self, train: list[Data], size: int, target: Any) -> int:
        """Send a train, or what it is made of where it is refused."""
        try:
            self._send_train_now(train, size, target)
        except OSError as exc:
            failure = exc
            if failure.errno not in _REFUSES_TRAINS:
                attempt = functools.partial(self._send_train_now, train, size, target)
                try:
                    await self._send_past(failure, attempt, target, size)
                    return len(train)
                except DatagramError as latest:
                    if latest.errno not in _REFUSES_TRAINS:
                        raise
                    failure = latest
            for index, data in enumerate(train):
                try:
                    await self._send_single(data, size_of(data), target)
                except DatagramError as single:
                    single.sent = index
                    raise
            self._expect_less(failure, len(train), size)
        return len(train)

    def _send_train_now(self, train: list[Data], size: int, target: Any) -> int:
        """Send a train without waiting, all of it or nothing."""
        sent: int = self._sock.sendmsg(train, [segment_message(size)], 0, target)
        self._sent += len(train)
        return sent

    def _expect_less(self, exc: OSError, segments: int, size: int) -> None:
        """Remember what this socket's trains may not be."""
        if exc.errno == errno.EMSGSIZE:
            self._largest_segment = min(self._largest_segment, size - 1)
        elif exc.errno == errno.EINVAL and segments > _FEWER_SEGMENTS:
            self._most_segments = _FEWER_SEGMENTS
        else:
            self._most_segments = 1
