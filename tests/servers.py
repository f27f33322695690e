"""PostgreSQL and MLflow's server as processes on 127.0.0.1, with the commands of deploy/mlflow-compose.yaml."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "deploy" / "mlflow-compose.yaml"
PASSWORD = "not-a-secret"
START_SECONDS = 120
"""Seconds allowed for a server to start, on a slow and busy machine."""


def free_port() -> int:
    """A free port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service(name: str) -> dict[str, Any]:
    """A service of the compose file, with its variables filled in."""
    given = {"POSTGRES_PASSWORD": PASSWORD, "MLFLOW_PUBLISHED_PORT": "5000"}
    text = re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda match: given[match[1]], COMPOSE.read_text())
    return dict(yaml.safe_load(text)["services"][name])


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL server programs; None if none are installed."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda folder: int(folder.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _until_healthy(name: str, process: subprocess.Popen[bytes], environment: dict[str, str], output: Path) -> None:
    """Wait until the compose file's health check passes."""
    check = service(name)["healthcheck"]["test"][1:]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(check, env=environment, capture_output=True, check=False).returncode:
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)


@dataclass
class Postgres:
    """A database like the service `database`."""

    port: int

    @property
    def uri(self) -> str:
        """Its URI with user and password."""
        return service("tracking")["environment"]["MLFLOW_BACKEND_STORE_URI"].replace(
            "@database:5432/", f"@127.0.0.1:{self.port}/"
        )


@contextlib.contextmanager
def postgres(programs: Path) -> Iterator[Postgres]:
    """Start PostgreSQL in a temporary folder; since it refuses to run as root, root runs it as its own user."""
    given = service("database")["environment"]
    user, port = given["POSTGRES_USER"], free_port()
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="dmf-postgres-") as name:
        folder, password = Path(name), Path(name, "password")
        password.write_text(given["POSTGRES_PASSWORD"])
        if owner:
            entry = pwd.getpwnam("postgres")
            for path in (folder, password):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": PASSWORD}
        environment = {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": name, **client}
        run: dict[str, Any] = {"cwd": name, "env": environment, **owner}
        initdb = ["initdb", "--pgdata=data", f"--username={user}", "--pwfile=password", "--auth=scram-sha-256"]
        subprocess.run([*initdb, "--encoding=UTF8"], check=True, capture_output=True, **run)
        output = folder / "output.txt"
        with open(output, "wb") as log:
            server = ["postgres", "-D", "data", "-h", "127.0.0.1", "-p", str(port), "-k", name]
            process = subprocess.Popen(server, stdout=log, stderr=log, **run)
        try:
            _until_healthy("database", process, environment, output)
            subprocess.run(["createdb", "--username", user, given["POSTGRES_DB"]], check=True, **run)
            yield Postgres(port)
        finally:
            process.send_signal(signal.SIGINT)  # "fast": ends sessions and stops
            process.wait(timeout=START_SECONDS)


@dataclass
class MLflowServer:
    """A tracking server like the service `tracking`; it can be killed and restarted."""

    database: Postgres
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The service's environment, adapted for running outside a container with this Python's commands."""
        here = {
            "MLFLOW_BACKEND_STORE_URI": self.database.uri,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(self.port),
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **service("tracking")["environment"], **here, "PATH": path}

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = service("tracking")["command"]
        output = self.folder / "mlflow.txt"
        with open(output, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        _until_healthy("tracking", self.process, self.environment, output)

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def mlflow_server(database: Postgres, folder: Path) -> Iterator[MLflowServer]:
    """Start MLflow's server on a database, with its artifacts in `folder`."""
    server = MLflowServer(database, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
