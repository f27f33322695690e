"""Addresses at which no Ray answers, and tokens that are gone: one sentence, soon."""

from __future__ import annotations

import contextlib
import http.server
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.running import cluster
from tests.servers import free_port
from tests.sites import START_SECONDS, Site
from tests.test_nodes import CLUSTER, Nodes
from tests.tiny import tiny_sweep

Server = Callable[[], contextlib.AbstractContextManager[int]]
ONE = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1)


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def of_another_program() -> Iterator[int]:
    """A port of a web server, as of MLflow or of Ray's dashboard."""
    server = http.server.ThreadingHTTPServer(("", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("server", [silent, of_another_program])
def test_a_server_that_is_no_ray_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
    with server() as port, pytest.raises(ValueError, match="what listens there does not answer as Ray does") as raised:
        cluster._probe(f"127.0.0.1:{port}")
    assert str(raised.value).startswith(f"no Ray answers at --address 127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("address", "why"),
    [("nowhere.invalid:6379", "Name or service not known|name resolution"), ("6379", "Invalid address format")],
)
def test_what_names_no_server_is_told(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        cluster._probe(address)


def test_an_address_from_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match=f"auto, which RAY_ADDRESS names .*:{port}: .*Connection refused"):
        cluster._probe("auto")


def test_a_sweep_for_a_cluster_that_is_gone_is_refused_and_goes_on_elsewhere(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE)
    process = site.start("--address", f"127.0.0.1:{free_port()}")
    assert process.wait(timeout=START_SECONDS) == 2
    (error,) = (line for line in site.said.splitlines() if line.startswith("error: "))
    assert "no Ray answers at --address" in error and "`ray start --head`" in error
    assert "Traceback" not in site.said
    assert site.run() == 0, site.said


def test_a_token_that_is_gone_or_empty_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(ValueError, match=f"RAY_AUTH_TOKEN_PATH: {path} cannot be read .No such file.*unset"):
        cluster._check_token()
    path.touch()
    with pytest.raises(ValueError, match=f"RAY_AUTH_TOKEN_PATH: {path} is empty"):
        cluster._check_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster._check_token()
    monkeypatch.delenv("RAY_AUTH_MODE")
    path.write_text("0123")
    cluster._check_token()


@pytest.mark.full
def test_a_ray_that_is_not_gone_answers_one_with_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    nodes = Nodes(tmp_path, "127.0.0.10")
    try:
        cluster._probe(nodes.address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with pytest.raises(ValueError, match=f"no Ray answers at --address {nodes.address}"):
            cluster._probe(nodes.address)
    finally:
        nodes.close()
