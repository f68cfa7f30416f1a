"""Ray clusters of several nodes on this machine, each node a tree of processes of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Cluster:
    """A head and more nodes, on loopback, with a token of their own. Ends with the context."""

    def __init__(self, pythonpath: str, cores: int = 1) -> None:
        self.cores = cores
        # Paths of sockets may not be long.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.env = {
            **os.environ,
            "PYTHONPATH": pythonpath,
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A dead node is found to be dead by its closed connections, and at the latest so.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
        }
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start(
                "--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false"
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in reversed(range(len(self.nodes))):
            self.kill(number)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self) -> int:
        """Another node; its number."""
        return self._start(f"--address={self.address}")

    def kill(self, number: int) -> None:
        """SIGKILL for every process of a node at once."""
        node = self.nodes[number]
        try:
            family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        node.wait()
        psutil.wait_procs(family, timeout=10)

    def _start(self, *arguments: str) -> int:
        number = len(self.nodes)
        log = self.folder / f"node-{number}.log"
        head = ["--temp-dir", str(self.folder / "ray")] if "--head" in arguments else []
        with log.open("wb") as output:
            node = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "ray"),
                    "start",
                    "--block",
                    *arguments,
                    *head,
                    f"--num-cpus={self.cores}",
                    "--node-ip-address=127.0.0.1",
                    "--object-store-memory=100000000",
                ],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace")[-3000:])
            time.sleep(0.2)
        return number
