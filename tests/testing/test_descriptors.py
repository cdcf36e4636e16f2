"""open_descriptors shows what is open, by name, on each of its ways."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from sockscope.testing import _descriptors, open_descriptors


@pytest.fixture
def by_dev_fd(monkeypatch):
    """As on macOS: /dev/fd, without names."""
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/dev/fd")


@pytest.fixture
def by_trial(monkeypatch):
    """As on Windows: no listing at all."""
    monkeypatch.setattr(os.path, "isdir", lambda path: False)


@pytest.fixture(params=["by_proc", "by_dev_fd", "by_trial"])
def way(request):
    if request.param != "by_proc":
        request.getfixturevalue(request.param)
    elif not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system has no /proc/self/fd")


@pytest.mark.usefixtures("way")
class TestOpenDescriptors:
    def test_shows_what_opens_and_closes(self, tmp_path):
        before = open_descriptors()
        with socket.socket() as sock, (tmp_path / "file").open("w") as file:
            now = open_descriptors()
            new = {number: name for number, name in now.items() if number not in before}
            assert set(new) == {sock.fileno(), file.fileno()}
            assert new[sock.fileno()].startswith("socket:[")
        assert open_descriptors() == before

    def test_does_not_show_itself(self):
        for number in open_descriptors():
            os.fstat(number)

    def test_a_reused_number_has_another_name(self):
        first = socket.socket()
        with socket.socket() as second:
            number = first.fileno()
            name = open_descriptors()[number]
            first.close()
            os.dup2(second.fileno(), number)
            other = open_descriptors()[number]
            os.close(number)
        assert other != name


@pytest.mark.skipif(sys.platform != "linux", reason="names as in /proc")
def test_names_are_those_of_the_kernel(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert open_descriptors()[file.fileno()] == os.path.realpath(file.name)


def test_description_of_a_socket_has_both_ends():
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert _descriptors.describe_descriptor(listener.fileno(), "socket:[1]").endswith(
            f"(socket:[1], AF_INET SOCK_STREAM {listener.getsockname()!r})"
        )
        client.connect(listener.getsockname())
        assert _descriptors.describe_descriptor(client.fileno(), "socket:[1]").endswith(
            f"{client.getsockname()!r} to {listener.getsockname()!r})"
        )


def test_description_of_what_is_closed():
    with socket.socket() as sock:
        number = sock.fileno()
    assert _descriptors.describe_descriptor(number, "socket:[1]") == (
        f"descriptor {number} (socket:[1])"
    )
