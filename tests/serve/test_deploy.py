"""deploy/: what Kubernetes accepts, and files that fit each other, the image and the command."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from launch import ROOT

from hvdkit_cli.serve.line import serve_command

pytestmark = pytest.mark.quick

FOLDER = ROOT / "deploy"
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
VERSION = "1.34"
KINDS = {
    "Deployment",
    "HorizontalPodAutoscaler",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Secret",
    "Service",
}


def load() -> dict[str, dict[str, Any]]:
    """The objects of all files, by their kinds."""
    found = {}
    for path in MANIFESTS:
        (document,) = yaml.safe_load_all(path.read_text())
        found[document["kind"]] = document
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_accepts_it(path) -> None:
    (document,) = yaml.safe_load_all(path.read_text())
    kubernetes_validate.validate(document, VERSION, strict=True)
    if "spec" in document:
        document["spec"]["misspelt"] = 1
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, VERSION, strict=True)


def test_they_fit_each_other() -> None:
    objects = load()
    assert objects.keys() == KINDS
    deployment = objects["Deployment"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert objects["Service"]["spec"]["selector"].items() <= labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    scaled = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert objects["PodDisruptionBudget"]["spec"]["minAvailable"] < scaled["minReplicas"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    secret = volumes["tokens"]["secret"]
    assert secret["secretName"] == objects["Secret"]["metadata"]["name"]
    assert not secret["defaultMode"] & 0o007  # what the server refuses
    assert objects["Secret"]["stringData"] == {"tokens": ""}  # no token that all know


def test_pods_are_what_the_command_is() -> None:
    pod = load()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    known = {option for each in serve_command.params for option in each.opts}
    options = [each for each in container["args"] if each.startswith("--")]
    assert set(options) <= known
    values = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (key,) = load()["Secret"]["stringData"]
    assert values["--token-file"] == f"{mounts['tokens']}/{key}"
    # It has time to finish what it runs.
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    asked = float(pause) + float(values["--stop-timeout"])
    assert pod["terminationGracePeriodSeconds"] > asked
    paths = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "startupProbe")}
    assert paths == {"/v2/health/live"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert f"VOLUME {mounts['models']}" in dockerfile()
    assert f"EXPOSE {container['ports'][0]['containerPort']}\n" in dockerfile()


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text()


def test_the_image_is_not_root_s_and_says_how_it_is() -> None:
    last_stage = dockerfile().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last_stage, re.M) == ["1000"]
    assert "useradd --uid 1000 " in last_stage
    assert re.findall(r"^HEALTHCHECK ", last_stage, re.M)
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", last_stage, re.M)
    assert yaml.safe_load(entry)[:2] == ["hvdkit", "serve"]
    stages = set(re.findall(r"^FROM .+ AS (\S+)$", dockerfile(), re.M))
    assert set(re.findall(r"--from=(\w+) ", dockerfile())) <= stages


def test_the_image_s_packages_are_pinned_and_those_of_the_extra() -> None:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    named = {line for line in lines if not line.startswith("#")}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    assert {name.replace("-", "_") for name in named} <= {p.replace("-", "_") for p in pinned}
    extra = re.search(r"^serve =\n((?:    .+\n)+)", (ROOT / "setup.cfg").read_text(), re.M)[1]
    wanted = {re.split(r"[>=<]", line.strip())[0] for line in extra.splitlines()}
    assert wanted | {"click", "rich"} == named
