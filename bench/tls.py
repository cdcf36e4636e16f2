"""Measures TLS servers side by side: an ECDSA certificate, TLS 1.3, AES-256-GCM."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trustme
from harness import goals
from harness.cli import main
from harness.programs import TLS_SERVERS
from harness.workloads import ServerWorkload, cpu_per_operation

GROUP = "TLS, CPU of the server"


def write_chain(path: Path) -> None:
    """A key and its certificate, of an authority that lives as long as this run."""
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(path)


def workloads(chain: Path) -> tuple[ServerWorkload, ...]:
    def tls(name: str, title: str, *load: str) -> ServerWorkload:
        return ServerWorkload(
            name,
            GROUP,
            (cpu_per_operation(name, title),),
            TLS_SERVERS,
            load,
            generator="load_tls",
            server_arguments=("--tls", str(chain)),
        )

    return (
        tls("tls-1", "64 B, 1 conn", "echo", "--connections", "1", "--size", "64"),
        tls("tls-64", "64 B, 64 conns", "echo", "--connections", "64", "--size", "64"),
        tls("tls-16k", "16 KiB, 64 conns", "echo", "--connections", "64", "--size", "16384"),
        tls("tls-handshake", "handshake, 1 B, close", "churn", "--connections", "16"),
    )


def run() -> int:
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder, "chain.pem")
        write_chain(chain)
        return main("tls", __doc__, workloads(chain), [goals.TLS])


if __name__ == "__main__":
    sys.exit(run())
