"""Binding to a path: who may connect and from when on, what is replaced, what is left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from sockscope._core.errors import SocketError
from sockscope._open import local_path
from sockscope._open.local_path import bind_local
from sockscope._sockets import long_path
from sockscope._sockets.long_path import sockaddr_for
from sockscope.testing import open_descriptors

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no local sockets")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux's way to long paths")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="giving files away needs root"
)
NOBODY = 65534
KINDS = {
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def sockets():
    """Makes local sockets, and closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda kind=socket.SOCK_STREAM: stack.enter_context(
            socket.socket(socket.AF_UNIX, kind)
        )


@pytest.fixture
def path(tmp_path):
    return os.fsencode(tmp_path / "socket")


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def bind(sock, path, *, listen=None, **given):
    arguments = {"mode": None, "owner": None, "group": None, "replace_stale": True, **given}
    if listen is None:
        listen = (lambda: None) if sock.type == socket.SOCK_DGRAM else lambda: sock.listen()
    return bind_local(sock, path, listen=listen, **arguments)


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def make_stale(path, kind=socket.SOCK_STREAM):
    with (
        socket.socket(socket.AF_UNIX, kind) as sock,
        long_path.path_descriptor(os.path.dirname(path)) as fd,
    ):
        sock.bind(b"%s/%s" % (long_path.descriptor_path(fd), os.path.basename(path)))


def connects(path, kind=socket.SOCK_STREAM):
    with sockaddr_for(path) as sockaddr, socket.socket(socket.AF_UNIX, kind) as client:
        client.setblocking(False)
        return client.connect_ex(sockaddr) == 0


def leftovers(path):
    return sorted(os.listdir(os.path.dirname(path)))


class TestTheSimpleCase:
    def test_binds_and_listens(self, sockets, path, kind):
        bind(sockets(kind), path)
        assert connects(path, kind)

    def test_the_mode_is_the_umasks_without_a_word(self, sockets, path, umask):
        bind(sockets(), path)
        assert mode_of(path) == 0o777 & ~umask

    def test_the_kernel_shows_the_path_as_it_was_given(self, sockets, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        sock = sockets()
        bind(sock, b"./here")
        assert sock.getsockname() == "./here"

    def test_leaves_nothing_else_in_the_directory(self, sockets, path):
        make_stale(path)
        bind(sockets(), path)
        assert leftovers(path) == [b"socket"]

    def test_opens_no_descriptor(self, sockets, path):
        sock = sockets()
        before = open_descriptors()
        make_stale(path)
        bind(sock, path, mode=0o600)
        assert open_descriptors() == before


class TestPermissions:
    @pytest.mark.parametrize("mode", [0, 0o600, 0o660, 0o666, 0o777])
    def test_the_mode_is_exact_whatever_the_umask(self, sockets, path, kind, umask, mode):
        bind(sockets(kind), path, mode=mode)
        assert mode_of(path) == mode

    def test_the_umask_is_never_touched(self, sockets, path, monkeypatch):
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("umask changed"))
        bind(sockets(), path, mode=0o666)

    def test_in_force_before_listen(self, sockets, path):
        sock = sockets()
        seen = []
        bind(sock, path, mode=0o600, listen=lambda: seen.append(mode_of(path)))
        assert seen == [0o600]

    @linux_only
    def test_closed_to_all_until_it_is_the_owners(self, sockets, path, kind, monkeypatch):
        """Also a datagram socket, which takes messages from bind on."""
        seen = []

        def chmod(target, mode, **more):
            seen.append(mode_of(path))
            os_chmod(target, mode, **more)

        os_chmod = os.chmod
        monkeypatch.setattr(os, "chmod", chmod)
        bind(sockets(kind), path, mode=0o666)
        assert seen == [0]

    @as_root
    def test_owner_and_group_by_number(self, sockets, path):
        bind(sockets(), path, mode=0o640, owner=NOBODY, group=NOBODY)
        found = os.lstat(path)
        assert (found.st_uid, found.st_gid, mode_of(path)) == (NOBODY, NOBODY, 0o640)

    @as_root
    def test_owner_by_name(self, sockets, path, umask):
        bind(sockets(), path, owner="nobody")
        assert os.lstat(path).st_uid == NOBODY
        assert mode_of(path) == 0o777 & ~umask

    def test_our_own_group_needs_no_privilege(self, sockets, path):
        bind(sockets(), path, group=os.getegid())
        assert os.lstat(path).st_gid == os.getegid()

    @as_root
    @linux_only
    def test_a_link_put_there_by_the_new_owner_is_not_followed(self, sockets, path, monkeypatch):
        victim = path + b"-victim"
        with open(victim, "w"):
            os.chmod(victim, 0o600)

        def chown(target, *ids, **more):
            os_chown(target, *ids, **more)
            os.rename(path, path + b"-moved")
            os.symlink(victim, path)

        os_chown = os.chown
        monkeypatch.setattr(os, "chown", chown)
        bind(sockets(), path, mode=0o666, owner=NOBODY)
        assert mode_of(victim) == 0o600

    @as_root
    def test_another_user_is_kept_out(self, tmp_path, sockets):
        folder = tmp_path
        while folder.stat().st_mode & 0o777 == 0o700:  # pytest's own, however deep they are
            folder.chmod(0o755)
            folder = folder.parent
        closed, opened = (os.fsencode(tmp_path / name) for name in ("closed", "opened"))
        bind(sockets(), closed, mode=0o600)
        bind(sockets(), opened, mode=0o600, owner=NOBODY)
        program = (
            "import os, socket, sys\n"
            # Of itself, for the interpreter may lie where nobody else may go.
            "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
            "for path in sys.argv[1:]:\n"
            "    print(socket.socket(socket.AF_UNIX).connect_ex(path))\n"
        )
        told = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, closed, opened],
            capture_output=True,
            check=True,
        )
        assert told.stdout.split() == [b"%d" % errno.EACCES, b"0"]

    @as_root
    def test_a_refused_owner_leaves_no_file(self, sockets, path, monkeypatch):
        def refuse(*args, **more):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "chown", refuse)
        with pytest.raises(PermissionError, match=r"set the owner of unix:.*socket to uid 65534"):
            bind(sockets(), path, owner=NOBODY)
        assert leftovers(path) == []

    @pytest.mark.parametrize(
        ("given", "error", "words"),
        [
            ({"mode": "600"}, TypeError, "mode must be an int"),
            ({"mode": True}, TypeError, "mode must be an int"),
            ({"mode": 0o1777}, ValueError, "mode must be 0 to 0o777, not 0o1777"),
            ({"mode": -1}, ValueError, "mode"),
            ({"owner": "no such user"}, ValueError, "owner='no such user'"),
            ({"group": "no such group"}, ValueError, "group='no such group'"),
            ({"owner": -1}, ValueError, "owner must be 0"),
            ({"group": 1.5}, TypeError, "group must be a name or a number"),
            ({"owner": False}, TypeError, "owner must be a name or a number"),
        ],
    )
    def test_bad_arguments_are_told_before_anything_is_made(
        self, sockets, path, given, error, words
    ):
        with pytest.raises(error, match=words):
            bind(sockets(), path, **given)
        assert leftovers(path) == []


class TestWithoutDescriptorPaths:
    """The way of the systems that have no /proc, which works on Linux just as well."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, monkeypatch):
        monkeypatch.setattr(local_path, "HAS_DESCRIPTOR_PATHS", False)
        monkeypatch.setattr(long_path, "HAS_DESCRIPTOR_PATHS", False)

    def test_the_mode_of_a_stream_is_set_before_it_listens(self, sockets, path):
        seen = []
        bind(sockets(), path, mode=0o604, listen=lambda: seen.append(mode_of(path)))
        assert seen == [0o604]

    def test_owner_without_mode(self, sockets, path, umask):
        bind(sockets(), path, owner=os.geteuid())
        assert mode_of(path) == 0o777 & ~umask

    def test_a_datagram_sockets_permissions_are_refused(self, sockets, path):
        with pytest.raises(SocketError, match="no way to set the mode") as caught:
            bind(sockets(socket.SOCK_DGRAM), path, mode=0o600)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert leftovers(path) == []

    def test_stale_files_are_replaced(self, sockets, path):
        make_stale(path)
        bind(sockets(), path)
        assert connects(path)

    def test_a_long_path_is_a_clear_error(self, sockets, path):
        with pytest.raises(OSError, match="at most 107 bytes on this system") as caught:
            bind(sockets(), path + b"x" * 108)
        assert caught.value.errno == errno.ENAMETOOLONG


class TestWhatIsThereAlready:
    @pytest.mark.parametrize("dead", KINDS)
    def test_a_stale_socket_of_any_type_is_replaced(self, sockets, path, kind, dead):
        make_stale(path, KINDS[dead])
        bind(sockets(kind), path)
        assert connects(path, kind)

    def test_a_stale_one_is_refused_if_you_say_so(self, sockets, path):
        make_stale(path)
        before = os.lstat(path)
        with pytest.raises(SocketError, match="replace_stale=False") as caught:
            bind(sockets(), path, replace_stale=False)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.samestat(os.lstat(path), before)

    @pytest.mark.parametrize("live", KINDS)
    def test_a_live_one_is_an_error_and_stays(self, sockets, path, kind, live):
        bind(sockets(KINDS[live]), path)
        with pytest.raises(SocketError, match="a live socket is there") as caught:
            bind(sockets(kind), path)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.identifier == "address-in-use"
        assert connects(path, KINDS[live])

    def test_the_probe_puts_nothing_into_a_live_ones_queue(self, sockets, path):
        live = sockets()
        bind(live, path)
        with pytest.raises(SocketError):
            bind(sockets(), path)
        live.setblocking(False)
        with pytest.raises(BlockingIOError):
            live.accept()

    def test_a_full_queue_is_alive(self, sockets, path):
        live = sockets()
        bind(live, path, listen=lambda: live.listen(0))
        sockets().connect(os.fsdecode(path))
        assert not connects(path)
        with pytest.raises(SocketError, match="a live socket"):
            bind(sockets(), path)

    def test_one_that_is_about_to_listen_is_alive(self, sockets, path):
        bind(sockets(), path, listen=lambda: None)
        with pytest.raises(SocketError, match="a live socket"):
            bind(sockets(), path)

    def test_a_datagram_socket_with_a_peer_of_its_own_is_alive(self, sockets, path):
        live = sockets(socket.SOCK_DGRAM)
        bind(live, path)
        other = sockets(socket.SOCK_DGRAM)
        bind(other, path + b"-other")
        live.connect(path + b"-other")
        with pytest.raises(SocketError, match="a live socket"):
            bind(sockets(), path)

    @pytest.mark.parametrize("what", ["file", "directory", "link", "link to a socket", "fifo"])
    @pytest.mark.parametrize("replace_stale", [True, False])
    def test_what_is_no_socket_is_an_error_and_stays(self, sockets, path, what, replace_stale):
        if what == "file":
            with open(path, "wb") as file:
                file.write(b"precious")
        elif what == "directory":
            os.mkdir(path)
        elif what == "fifo":
            os.mkfifo(path)
        else:
            target = path + b"-target"
            if what == "link to a socket":
                make_stale(target)
            os.symlink(target, path)
        before = os.lstat(path)
        with pytest.raises(FileExistsError, match=r"unix:.*/socket: something that is not a"):
            bind(sockets(), path, replace_stale=replace_stale)
        assert os.path.samestat(os.lstat(path), before)

    def test_no_telling_is_an_error_and_it_stays(self, sockets, path, monkeypatch):
        make_stale(path)
        monkeypatch.setattr(local_path, "_probe", lambda path: errno.EACCES)
        with pytest.raises(PermissionError, match="no telling whether a live socket is there"):
            bind(sockets(), path)
        assert leftovers(path) == [b"socket"]

    @pytest.mark.parametrize("moment", ["lstat", "_probe"])
    def test_one_that_goes_away_meanwhile_is_no_error(self, sockets, path, monkeypatch, moment):
        make_stale(path)
        module = os if moment == "lstat" else local_path
        before = getattr(module, moment)

        def removed_meanwhile(*args):
            if module is local_path:
                answer = before(*args)
                os.unlink(path)
                return answer
            monkeypatch.setattr(module, moment, before)
            os.unlink(path)
            return before(*args)

        monkeypatch.setattr(local_path, "_replacing", lambda path: contextlib.nullcontext())
        monkeypatch.setattr(module, moment, removed_meanwhile)
        bind(sockets(), path)
        assert connects(path)

    @pytest.mark.parametrize(
        ("below", "error"), [(b"missing/x", FileNotFoundError), (b"file/x", NotADirectoryError)]
    )
    def test_the_systems_refusals_name_path_and_step(self, sockets, tmp_path, below, error):
        (tmp_path / "file").touch()
        with pytest.raises(error, match=r"cannot bind to unix:/.*/x: ") as caught:
            bind(sockets(), os.fsencode(tmp_path) + b"/" + below)
        assert isinstance(caught.value, SocketError)

    def test_a_failed_listen_removes_the_path(self, sockets, path):
        def fail():
            raise OSError(errno.ENOBUFS, "No buffer space available")

        with pytest.raises(SocketError, match="cannot listen on unix:") as caught:
            bind(sockets(), path, listen=fail)
        assert caught.value.errno == errno.ENOBUFS
        assert leftovers(path) == []

    def test_an_error_of_ours_in_listen_comes_out_as_it_is(self, sockets, path):
        def fail():
            raise error

        error = SocketError(errno.EINVAL, "ours")
        with pytest.raises(SocketError) as caught:
            bind(sockets(), path, listen=fail)
        assert caught.value is error


class TestTheLock:
    RACER = (
        "import os, socket, sys\n"
        "from sockscope._open.local_path import bind_local\n"
        "path = os.fsencode(sys.argv[1])\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    bind_local(sock, path, mode=0o600, owner=None, group=None,\n"
        "               replace_stale=True, listen=sock.listen)\n"
        "except OSError as exc:\n"
        "    print('lost', exc.errno, flush=True)\n"
        "else:\n"
        "    print('won', os.getpid(), flush=True)\n"
        "sys.stdin.readline()\n"
    )

    @pytest.mark.parametrize("stale", [True, False])
    def test_servers_that_race_leave_exactly_one_winner(self, path, stale):
        if stale:
            make_stale(path)
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", self.RACER, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        try:
            for racer in racers:
                assert racer.stdout.readline() == b"ready\n"
            for racer in racers:
                racer.stdin.write(b"go\n")
                racer.stdin.flush()
            told = [racer.stdout.readline().split() for racer in racers]
            winners = [int(number) for outcome, number in told if outcome == b"won"]
            losers = [int(number) for outcome, number in told if outcome == b"lost"]
            assert losers == [errno.EADDRINUSE] * 3
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert [int.from_bytes(raw[:4], sys.byteorder)] == winners
            assert leftovers(path) == [b"socket"]
        finally:
            for racer in racers:
                racer.communicate(b"end\n")

    def test_threads_that_race_leave_exactly_one_winner(self, sockets, path):
        for _ in range(20):
            make_stale(path)
            barrier = threading.Barrier(4)
            racing = [sockets() for _ in range(4)]
            won, lost = [], []

            def race(sock, barrier=barrier, won=won, lost=lost):
                barrier.wait()
                try:
                    won.append((sock, bind(sock, path)))
                except SocketError as exc:
                    lost.append(exc.errno)

            threads = [threading.Thread(target=race, args=(sock,)) for sock in racing]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            [(winner, release)] = won
            assert lost == [errno.EADDRINUSE] * 3
            assert connects(path)
            winner.accept()[0].close()
            release()

    def test_a_lock_held_for_long_is_an_error_that_names_it(self, sockets, path, monkeypatch):
        monkeypatch.setattr(local_path, "_LOCK_SECONDS", 0.0)
        make_stale(path)
        with (
            local_path._replacing(path),
            pytest.raises(SocketError, match=r"\.sockscope-.*\.lock is locked") as caught,
        ):
            bind(sockets(), path)
        assert caught.value.errno == errno.EADDRINUSE
        assert leftovers(path) == [b"socket"]

    def test_the_next_waits_for_the_lock(self, sockets, path, monkeypatch):
        make_stale(path)
        lock = local_path._replacing(path)
        lock.__enter__()
        pauses = []

        def pause(seconds):
            if not pauses:
                lock.__exit__(None, None, None)
            pauses.append(seconds)

        monkeypatch.setattr(time, "sleep", pause)
        bind(sockets(), path)
        assert pauses
        assert leftovers(path) == [b"socket"]

    def test_a_file_system_without_locks_is_an_error_and_leaves_no_descriptor(
        self, sockets, path, monkeypatch
    ):
        def refuse(fd, operation):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        make_stale(path)
        server = sockets()
        monkeypatch.setattr(local_path.fcntl, "flock", refuse)
        before = open_descriptors()
        with pytest.raises(SocketError, match=r"no lock by .*\.sockscope-") as caught:
            bind(server, path)
        assert caught.value.errno == errno.ENOLCK
        assert open_descriptors() == before

    def test_a_lock_file_left_behind_is_no_lock(self, sockets, path):
        make_stale(path)
        with local_path._replacing(path):
            [lock] = set(leftovers(path)) - {b"socket"}
        with open(os.path.join(os.path.dirname(path), lock), "w"):
            pass
        bind(sockets(), path)
        assert leftovers(path) == [b"socket"]

    def test_one_that_is_tidied_away_while_held_is_no_error(self, path):
        with local_path._replacing(path):
            [lock] = leftovers(path)
            os.unlink(os.path.join(os.path.dirname(path), lock))

    def test_a_link_in_its_place_is_refused(self, sockets, path):
        make_stale(path)
        with local_path._replacing(path):
            [lock] = set(leftovers(path)) - {b"socket"}
        os.symlink(path + b"-victim", os.path.join(os.path.dirname(path), lock))
        with pytest.raises(OSError, match="no lock by"):
            bind(sockets(), path)
        assert b"socket-victim" not in leftovers(path)


class TestRelease:
    def test_removes_the_path(self, sockets, path):
        bind(sockets(), path)()
        assert leftovers(path) == []

    def test_leaves_another_servers_file(self, sockets, path):
        release = bind(sockets(), path)
        os.rename(path, path + b"-old")
        bind(sockets(), path)
        release()
        assert leftovers(path) == [b"socket", b"socket-old"]

    def test_is_harmless_when_it_is_gone(self, sockets, path):
        release = bind(sockets(), path)
        os.unlink(path)
        release()

    def test_finds_a_relative_path_from_elsewhere(self, sockets, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        release = bind(sockets(), b"here")
        monkeypatch.chdir("/")
        release()
        assert os.listdir(tmp_path) == []


@linux_only
class TestLongPaths:
    @pytest.fixture(params=["long directory", "long name", "both"])
    def path(self, request, tmp_path):
        directory, name = tmp_path, "socket"
        if request.param != "long name":
            directory = tmp_path / ("d" * 120)
            directory.mkdir()
        if request.param != "long directory":
            name = "n" * 255
        return os.fsencode(directory / name)

    def test_bound_and_reached(self, sockets, path, kind):
        release = bind(sockets(kind), path, mode=0o640)
        assert connects(path, kind)
        assert mode_of(path) == 0o640
        assert leftovers(path) == [os.path.basename(path)]
        release()
        assert leftovers(path) == []

    def test_the_name_that_the_kernel_tells_leads_nobody_to_another(self, sockets, path, kind):
        """It has the number of a descriptor, and a peer may have any directory as that."""
        sock = sockets(kind)
        bind(sock, path)
        told = os.fsencode(sock.getsockname())
        assert told.startswith(b"/proc/self/fd/")
        assert os.path.basename(told) != os.path.basename(path)
        assert os.path.basename(told) not in leftovers(path)

    def test_stale_ones_are_replaced_and_live_ones_are_not(self, sockets, path):
        make_stale_by_link(path)
        bind(sockets(), path)
        with pytest.raises(SocketError, match="a live socket"):
            bind(sockets(), path)
        assert connects(path)
        assert leftovers(path) == [os.path.basename(path)]

    def test_files_stay(self, sockets, path):
        with open(path, "w"):
            pass
        with pytest.raises(FileExistsError):
            bind(sockets(), path)
        assert leftovers(path) == [os.path.basename(path)]

    def test_opens_no_descriptor(self, sockets, path):
        sock = sockets()
        before = open_descriptors()
        bind(sock, path)
        assert connects(path)
        assert open_descriptors() == before

    def test_a_relative_one(self, sockets, path, monkeypatch):
        monkeypatch.chdir(os.path.dirname(path))
        name = os.path.basename(path).ljust(120, b"x")
        bind(sockets(), name)
        assert connects(name)

    def test_nothing_there_is_told_as_connect_does(self, path):
        with pytest.raises(FileNotFoundError), sockaddr_for(path):
            pass


def make_stale_by_link(path):
    """A stale file of any name: bound under a short one."""
    short = os.path.join(os.path.dirname(path), b"short")
    make_stale(short)
    os.rename(short, path)


def test_short_and_abstract_names_are_taken_as_they_are():
    for name in (b"", b"/run/x", b"\0" + b"a" * 107):
        with sockaddr_for(name) as sockaddr:
            assert sockaddr is name
