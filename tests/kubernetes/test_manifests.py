"""mpi/kubernetes*: what the operator and Kubernetes accept, and files that fit each other."""

from __future__ import annotations

import os
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from launch import ROOT
from pods import ELASTIC, HOME, MANIFEST, UID

pytestmark = pytest.mark.quick

CRD = ROOT.parent / "shared/data/mpijobs-crd.yaml"
FOLDER = ROOT / "mpi/kubernetes"
VERSION = "1.34"
both = pytest.mark.parametrize("manifest", [MANIFEST, ELASTIC], ids=lambda path: path.name)


def load(manifest) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(manifest.read_text())
    return document


def pod_templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {role: spec["template"] for role, spec in job["spec"]["mpiReplicaSpecs"].items()}


def container(job: dict[str, Any], role: str) -> dict[str, Any]:
    (only,) = pod_templates(job)[role]["spec"]["containers"]
    return only


def without_unknown_fields(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of Kubernetes as JSON Schema, in which a misspelt field is an error."""
    schema = dict(schema)
    if "properties" in schema:
        properties = schema["properties"].items()
        schema["properties"] = {name: without_unknown_fields(part) for name, part in properties}
        schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        schema["items"] = without_unknown_fields(schema["items"])
    return schema


@pytest.fixture(scope="module")
def operator() -> jsonschema.Draft4Validator:
    """The operator's schema, of which the API server looks at every job."""
    if not CRD.exists():
        pytest.skip(f"{CRD} is not there")
    (version,) = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    assert version["name"] == "v2beta1"
    return jsonschema.Draft4Validator(without_unknown_fields(version["schema"]["openAPIV3Schema"]))


@both
def test_the_operator_s_schema_accepts_it(manifest, operator: jsonschema.Draft4Validator) -> None:
    job = load(manifest)
    assert job["apiVersion"] == "kubeflow.org/v2beta1"
    # Not with the errors' own text, which shows the whole schema.
    assert [error.message for error in operator.iter_errors(job)] == []
    job["spec"]["slotsPerWorkers"] = 1
    (error,) = operator.iter_errors(job)
    assert "slotsPerWorkers" in error.message


@both
def test_kubernetes_accepts_its_pods(manifest) -> None:
    for role, template in pod_templates(load(manifest)).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role.lower()}, **template}
        kubernetes_validate.validate(pod, VERSION, strict=True)
        pod["spec"] = {**pod["spec"], "terminationGracePeriod": 1}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, VERSION, strict=True)


def test_kubernetes_accepts_the_volume() -> None:
    claim = load(FOLDER / "checkpoints.yaml")
    kubernetes_validate.validate(claim, VERSION, strict=True)
    # All workers write to it, wherever they are.
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (volume,) = [
        volume["persistentVolumeClaim"]
        for volume in pod_templates(load(MANIFEST))["Worker"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert volume["claimName"] == claim["metadata"]["name"]


@both
def test_pods_are_what_the_image_is_made_for(manifest) -> None:
    job = load(manifest)
    assert job["spec"]["sshAuthMountPath"] == f"{HOME}/.ssh"
    assert job["spec"]["launcherCreationPolicy"] == "WaitForWorkersReady"
    for template in pod_templates(job).values():
        assert template["spec"]["securityContext"]["runAsUser"] == UID
    for role in ("Launcher", "Worker"):
        resources = container(job, role)["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        # Of these pods the kubelet evicts none before others.
        assert resources["requests"] == resources["limits"]
    worker = container(job, "Worker")
    ports = {worker["ports"][0]["containerPort"]}
    ports |= {worker[probe]["tcpSocket"]["port"] for probe in ("readinessProbe", "livenessProbe")}
    for config in ("sshd_config", "ssh_config"):
        ports.add(int(re.search(r"^\s*Port (\d+)$", (FOLDER / config).read_text(), re.M)[1]))
    assert len(ports) == 1


def test_as_many_ranks_as_slots() -> None:
    job = load(MANIFEST)
    launcher = container(job, "Launcher")
    assert launcher["command"] == ["hvdkit", "mpirun"]
    ranks = int(launcher["args"][launcher["args"].index("-np") + 1])
    workers = job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert ranks == job["spec"]["slotsPerWorker"] * workers
    assert {"PRTE_MCA_plm_ssh_args", "PRTE_MCA_prte_keep_fqdn_hostnames"} <= {
        variable["name"] for variable in launcher["env"]
    }


def test_pods_that_have_to_go_get_time_to_save() -> None:
    job = load(MANIFEST)
    for template in pod_templates(job).values():
        assert template["spec"]["terminationGracePeriodSeconds"] >= 60
    (hook,) = container(job, "Worker")["lifecycle"]["preStop"]["exec"]["command"]
    script = ROOT / hook.removeprefix(f"{HOME}/hvdkit/")
    assert os.access(script, os.X_OK)


@both
def test_examples_are_in_the_image(manifest) -> None:
    args = container(load(manifest), "Launcher")["args"]
    assert (ROOT / args[args.index("python") + 1]).is_file()
    copied = re.findall(r"^COPY (?:--chown=\w+ )?([\w/]+) /", dockerfile(), re.M)
    assert {"mpi", "examples"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text()


def test_image_is_not_root_s() -> None:
    last_stage = dockerfile().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last_stage, re.M) == ["1000"]
    # Kubernetes reads numbers only.
    assert "useradd --uid 1000 " in last_stage


def test_stages_of_the_image_exist() -> None:
    stages = set(re.findall(r"^FROM .+ AS (\S+)$", dockerfile(), re.M))
    assert {"compiler-cpu", "compiler-gpu", "build"} == stages
    used = re.findall(r"^COPY --from=(\w+) ", dockerfile(), re.M)
    assert set(used) - {"nvidia"} <= stages
