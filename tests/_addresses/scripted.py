"""A resolver on a script: no test here depends on what this machine's resolver knows."""

from __future__ import annotations

import socket

import trio


class ScriptedResolver(trio.abc.HostnameResolver):
    """Answers from a dict of host names; a value that is an exception is raised."""

    def __init__(self, forward=(), reverse=()):
        self.forward = dict(forward)
        self.reverse = dict(reverse)
        self.questions = []

    async def getaddrinfo(self, host, port, family=0, kind=0, proto=0, flags=0):
        self.questions.append((host, port, family, kind, flags))
        answer = self.forward.get(host)
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if isinstance(answer, BaseException):
            raise answer
        return [entry for entry in answer if family in (0, entry[0])]

    async def getnameinfo(self, sockaddr, flags):
        self.questions.append((sockaddr, flags))
        answer = self.reverse.get(sockaddr[0])
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if isinstance(answer, BaseException):
            raise answer
        return answer, str(sockaddr[1])


def ipv4(host, port=80, name=""):
    return (socket.AF_INET, socket.SOCK_STREAM, 6, name, (host, port))


def ipv6(host, port=80, name="", flow_info=0, scope_id=0):
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, name, (host, port, flow_info, scope_id))
