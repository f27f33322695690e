"""deploy/: every tool accepts its file, and the commands in it exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

import dmf
from orchestrator.sweep import main
from tests.servers import COMPOSE, ROOT, service

DEPLOY = ROOT / "deploy"
PINNED = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
FIELDS = {
    "spec": "entrypoint backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished rayClusterSpec",
    "rayClusterSpec": "rayVersion authOptions headGroupSpec workerGroupSpecs",
    "headGroupSpec": "rayStartParams template",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas rayStartParams template",
}
"""The fields of ray.io/v1 that the file uses, as spelt in KubeRay 1.6's API reference."""


def ray_start_lines(text: str) -> list[list[str]]:
    """The arguments of each `ray start` in a script or a list of commands."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r'ray"? start ([^;&\n]*)', joined)
    return [shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\{[^}]*\}|\$\w+", "1", line)) for line in found]


def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "ray_cluster.yaml").read_text()))


def ray_job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay_rayjob.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "RayJob"]
    return dict(documents[1])


def pods() -> dict[str, dict[str, Any]]:
    """The only container of each kind of pod, with the pod's volumes."""
    cluster_spec = ray_job()["spec"]["rayClusterSpec"]
    (workers,) = cluster_spec["workerGroupSpecs"]
    found = {}
    for name, group in (("head", cluster_spec["headGroupSpec"]), ("worker", workers)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        found[name] = {**container, "volumes": [volume["name"] for volume in pod["volumes"]]}
    return found


def test_ray_s_cluster_launcher_accepts_the_cluster() -> None:
    validate_config(prepare_config(cluster()))
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_command'"):
        validate_config(prepare_config({**cluster(), "head_start_ray_command": []}))


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "slurm.sbatch"])
def test_ray_start_has_every_option_that_is_given(name: str) -> None:
    text = (DEPLOY / name).read_text()
    if name.endswith(".yaml"):
        given = cluster()
        text = "\n".join([*given["head_start_ray_commands"], *given["worker_start_ray_commands"]])
    lines = ray_start_lines(text)
    assert len(lines) == 2 and "--head" in lines[0] and any(option.startswith("--address") for option in lines[1])
    for line in lines:
        ray_start.make_context("start", line, resilient_parsing=False)


def test_nobody_without_the_token_uses_a_cluster() -> None:
    given = cluster()
    assert given["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [*given["head_start_ray_commands"], *given["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in given["head_start_ray_commands"][1]
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN\n" in (DEPLOY / "slurm.sbatch").read_text()
    assert ray_job()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "dmf-ray-token"}


def test_the_ray_job_is_this_version_and_trains_on_gpus_beside_a_head_without() -> None:
    job = ray_job()
    spec = job["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    given = {"spec": job["spec"], "rayClusterSpec": spec, "headGroupSpec": spec["headGroupSpec"]}
    assert job["apiVersion"] == "ray.io/v1"
    assert {name: set(value) for name, value in {**given, "workerGroupSpecs": workers}.items()} == {
        name: set(fields.split()) for name, fields in FIELDS.items()
    }
    assert spec["rayVersion"] == PINNED["ray"]
    assert f'"ray[default]=={PINNED["ray"]}"' in (DEPLOY / "Dockerfile").read_text()
    assert {pod["image"].rpartition(":")[2] for pod in pods().values()} == {dmf.__version__}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu = {name: pod["resources"]["limits"].get("nvidia.com/gpu") for name, pod in pods().items()}
    assert gpu == {"head": None, "worker": "1"}
    for group in (spec["headGroupSpec"], workers):
        line = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        ray_start.make_context("start", line, resilient_parsing=False)
    for pod in pods().values():
        assert {mount["name"] for mount in pod["volumeMounts"]} == set(pod["volumes"])


def commands_told(name: str) -> list[str]:
    """The commands in a file's opening comment, indented by three columns; a line indented further continues one."""
    text = (DEPLOY / name).read_text()
    told = re.sub(r" \\\n#       +", " ", text)
    return re.findall(r"^#   (.*)", told, re.MULTILINE)


def test_the_commands_in_the_files_are_commands_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    told = [
        line for name in ("ray_cluster.yaml", "slurm.sbatch", "mlflow-compose.yaml") for line in commands_told(name)
    ]
    found = [re.search(r"(?:orchestrator\.sweep|slurm\.sbatch) (sweeps/[^']*)", line) for line in told]
    sweeps = [match[1] for match in found if match]
    sweeps.append(ray_job()["spec"]["entrypoint"].partition("orchestrator.sweep /dmf/")[2])
    assert len(sweeps) == 4
    assert {"/store", "/images", "/cache"} <= {mount["mountPath"] for mount in pods()["head"]["volumeMounts"]}
    for sweep in sweeps:
        arguments = shlex.split(sweep)
        if "--store" in arguments:
            arguments[arguments.index("--store") + 1] = str(tmp_path)
        assert main([*arguments, "--plan", "--address", "auto"]) == 0, (sweep, capsys.readouterr().err)
        said = capsys.readouterr().out
        assert "66 distinct" in said and "so they were not looked at" in said


def test_the_mlflow_service_is_what_is_installed_here_and_shows_itself_to_this_machine_only() -> None:
    build = service("tracking")["build"]["dockerfile_inline"]
    assert set(re.findall(r"(\S+==\S+)", build)) == {
        f"{name}=={PINNED[name]}" for name in ("mlflow", "psycopg2-binary")
    }
    assert service("tracking")["image"].endswith(f":{PINNED['mlflow']}")
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    published = [port for given in services.values() for port in given.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    assert all(re.search(r":\d", given["image"]) for given in services.values())
    assert services["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    given = set(re.findall(r"^(\w+)=", (DEPLOY / "mlflow.env.example").read_text(), re.MULTILINE))
    assert given == set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert "mlflow.env" in (DEPLOY / ".gitignore").read_text().split()
