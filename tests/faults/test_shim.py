"""The shim itself: each call that it knows fails when it is told to, and only then."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import sys
import time

import pytest
import trio

from tests.faults.injection import fault, fault_count, fault_set

if sys.platform != "linux":
    pytest.skip("the fault shim is for Linux: its calls are Linux's", allow_module_level=True)


def failing(operation, *arguments):
    """The errno with which *operation* fails; 0 if it does not."""
    try:
        operation(*arguments)
    except OSError as exc:
        return exc.errno
    return 0


def raw(name, *arguments):
    """Call the C library itself, for what CPython has no function for."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def operations():
    """For each call an operation of CPython that makes it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    one, two = socket.socketpair()
    epoll = select.epoll()
    file = os.open(__file__, os.O_RDONLY)
    fresh = socket.socket()
    return {
        "socket": socket.socket,
        "socketpair": socket.socketpair,
        "bind": (fresh.bind, ("127.0.0.1", 0)),
        "listen": (fresh.listen, 1),
        "connect": (fresh.connect, ("127.0.0.1", 1)),
        "accept4": listener.accept,
        "getsockname": listener.getsockname,
        "getpeername": one.getpeername,
        "setsockopt": (one.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 9999),
        "getsockopt": (one.getsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF),
        "recv": (two.recv_into, bytearray(1)),
        "send": (one.send, b"1"),
        "recvfrom": (two.recvfrom, 1),
        "sendto": (fresh.sendto, b"1", ("127.0.0.1", 1)),
        "recvmsg": (two.recvmsg, 1),
        "sendmsg": (one.sendmsg, [b"1"]),
        "recvmmsg": (raw, "recvmmsg", two.fileno(), None, 0, 0, None),
        "sendmmsg": (raw, "sendmmsg", one.fileno(), None, 0, 0),
        "sendfile": (os.sendfile, one.fileno(), file, 0, 1),
        "shutdown": (one.shutdown, socket.SHUT_RD),
        "epoll_create1": select.epoll,
        "epoll_ctl": (epoll.register, one),
        "epoll_wait": (epoll.poll, 0),
        "close": one.close,
    }


def fail_each_once():
    reached = []
    for call, operation in operations().items():
        operation, *arguments = operation if isinstance(operation, tuple) else (operation,)
        with fault(call, errno.ENOMEM) as failed:
            assert failing(operation, *arguments) == errno.ENOMEM, call
            assert failed() == 1, call
        reached.append(call)
    return reached


def test_every_call_fails_when_armed(run_under_faults):
    assert len(run_under_faults(fail_each_once).result) == 24


def nth_and_always():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    found = []
    with fault("accept4", errno.EMFILE, nth=2):
        found.append([failing(listener.accept) for _ in range(3)])
    with fault("accept4", errno.EMFILE, nth=2, always=True) as failed:
        found.append([failing(listener.accept) for _ in range(4)])
        found.append(failed())
    found.append(failing(listener.accept))
    found.append(fault_count("accept4"))
    return found


def test_nth_and_always(run_under_faults):
    real, armed = errno.EAGAIN, errno.EMFILE
    found = run_under_faults(nth_and_always).result
    assert found == [[real, armed, real], [real, armed, armed, armed], 3, real, 3]


def one_descriptor_only():
    one, two = socket.socketpair()
    with fault("send", errno.ECONNRESET, fd=one.fileno(), always=True) as failed:
        return [failing(two.send, b"x"), failing(one.send, b"x"), failed()]


def test_one_descriptor_only(run_under_faults):
    assert run_under_faults(one_descriptor_only).result == [0, errno.ECONNRESET, 1]


def close_frees():
    sock = socket.socket()
    number = sock.fileno()
    with fault("close", errno.EIO):
        failed = failing(sock.close)
    return [failed, failing(os.fstat, number)]


def test_close_frees_and_then_reports(run_under_faults):
    assert run_under_faults(close_frees).result == [errno.EIO, errno.EBADF]


def unknown_call():
    try:
        fault_set("frobnicate", errno.EIO)
    except ValueError as exc:
        return str(exc)


def test_unknown_call(run_under_faults):
    assert "frobnicate" in run_under_faults(unknown_call).result


async def under_trio(greeting):
    await trio.lowlevel.checkpoint()
    return greeting * 2


def test_async_functions_run_under_trio(run_under_faults):
    assert run_under_faults(under_trio, "hello ").result == "hello hello "


def test_files_run(run_under_faults, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import errno, socket, sys\n"
        "sys.path.insert(0, '.')\n"
        "from tests.faults.injection import fault\n"
        "with fault('socket', errno.ENFILE):\n"
        "    try: socket.socket()\n"
        "    except OSError as exc: print(sys.argv[1], errno.errorcode[exc.errno])\n"
    )
    assert run_under_faults(program, "says").out == "says ENFILE\n"


def hang():
    time.sleep(60)


def test_a_hang_is_told(run_under_faults):
    outcome = run_under_faults(hang, timeout=1.0, check=False)
    assert outcome.returncode != 0
    assert "in hang" in outcome.err


def spin():
    end = time.process_time() + 0.8
    while time.process_time() < end:
        pass


def test_a_spin_is_told(run_under_faults):
    assert run_under_faults(spin).cpu_seconds > 0.8


def fail():
    raise ValueError("broken on purpose")


def test_an_error_is_told(run_under_faults):
    assert "broken on purpose" in run_under_faults(fail, check=False).err
    with pytest.raises(pytest.fail.Exception, match="broken on purpose"):
        run_under_faults(fail)
