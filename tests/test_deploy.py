"""The files of deploy/: what they start exists, what they set is known, each fits its schema."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from prefect.cli._app import _app as prefect
from prefect.events.schemas.automations import AutomationCore
from prefect.settings.legacy import _get_settings_fields
from prefect.settings.models.root import Settings as PrefectSettings

from feature_repo import registry_digest
from feature_repo.client import VARIABLE
from feature_repo.guard import PREFIX, ServerSettings
from flows.cli import main
from transforms.home import Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text("utf-8"))
]
KUBERNETES = "1.32"
# of the images, and of the clients of object storage
OTHERS = {
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA"),
    *("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "PATH", "PYTHONUNBUFFERED"),
    *("AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}
SECRETS = {
    line.partition("=")[0]
    for line in (DEPLOY / "env.example").read_text("utf-8").splitlines()
    if not line.startswith("#")
}
KNOWN = {
    *OTHERS,
    *VARIABLE.findall((DEPLOY / "feature_store.yaml").read_text("utf-8")),
    *(f"MILLRACE_{name}".upper() for name in Settings.model_fields),
    *(f"{PREFIX}{name}".upper() for name in ServerSettings.model_fields),
    *_get_settings_fields(PrefectSettings),
    registry_digest.ALLOWED,
}


def pods() -> Iterator[dict[str, Any]]:
    """What the manifests have run."""
    for document in MANIFESTS:
        if "template" in document.get("spec", {}):
            yield document["spec"]["template"]["spec"]


CONTAINERS = [container for pod in pods() for container in pod["containers"]]


def dockerfile(instruction: str) -> list[str]:
    """The arguments of an instruction, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text("utf-8"))
    return re.findall(rf"^{instruction} (.*)", text, re.MULTILINE)


def commands() -> list[list[str]]:
    """Every command of ours that is started, apart where a shell runs several."""
    started = [service.get("command", []) for service in COMPOSE["services"].values()]
    started += [container.get("command", []) for container in CONTAINERS]
    started += [yaml.safe_load(line) for line in dockerfile("CMD")]
    shells = [words[2] for words in started if words[:2] == ["sh", "-c"]]
    parts = [shlex.split(part) for line in shells for part in re.split("&&|;", line)]
    return [words for words in [*started, *parts] if words and words[0] in {"millrace", "prefect"}]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_exists_and_has_its_options(words: list[str]) -> None:
    if words[0] == "millrace":
        name, command, rest = main.resolve_command(click.Context(main), words[1:])
        assert command
        command.make_context(name, rest)
    else:
        prefect.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_every_variable_is_one_that_its_program_knows() -> None:
    services = COMPOSE["services"].values()
    named = [*(name for service in services for name in service.get("environment", {}))]
    named += [item["name"] for container in CONTAINERS for item in container.get("env", [])]
    named += [name for item in MANIFESTS for name in item.get("data", {})]
    named += re.findall(r"(\w+)=", " ".join(dockerfile("ENV")))
    assert len(named) > 60
    assert sorted(set(named) - KNOWN) == []


def test_every_secret_is_in_the_example_and_none_has_a_value() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert set(re.findall(r"(?<!\$)\$\{(\w+):\?\}", text)) == SECRETS
    assert re.findall(r"(?<!\$)\$\{\w+(?!\w|:\?\})", text) == [], "it starts without one"
    keys = [
        item["valueFrom"]["secretKeyRef"]["key"]
        for container in CONTAINERS
        for item in container.get("env", [])
        if "valueFrom" in item
    ]
    assert set(keys) == SECRETS
    assert not any("PASSWORD" in name or "TOKEN" in name for name in " ".join(dockerfile("ENV")))


def test_dockerfile_has_no_finding() -> None:
    program = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run(
        [program, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
    assert dockerfile("USER") == ["10001:10001"]
    assert dockerfile("HEALTHCHECK")


def test_what_the_image_is_built_of_is_there_and_not_ignored() -> None:
    copied = [
        word
        for line in dockerfile("COPY")
        if not line.startswith("--from")
        for word in line.split()[:-1]
    ]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert [
        path for path in copied if not (ROOT / path).exists() or f"!{path}" not in ignored
    ] == []


def test_compose_file_is_one() -> None:
    services = COMPOSE["services"]
    merged = yaml.safe_dump(COMPOSE)  # the parser knows no `<<`, which Compose does
    assert sorted(PyCompose.from_yaml(merged).service_names()) == sorted(services)
    for name, service in services.items():
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert volumes <= set(COMPOSE["volumes"]), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert (
            name == "s3"
            or service["restart"] == "no"
            or name
            in {"postgres"}
            | {hardened for hardened, one in services.items() if one.get("cap_drop") == ["ALL"]}
        )


@pytest.mark.parametrize(
    "document", MANIFESTS, ids=lambda it: f"{it['kind']} {it['metadata']['name']}"
)
def test_manifest_is_of_its_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_manifests_are_all_applied_and_name_what_is_there() -> None:
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in folder.glob("*.yaml")}
    labels = {
        item["spec"]["template"]["metadata"]["labels"]["app"]
        for item in MANIFESTS
        if "template" in item.get("spec", {})
    }
    selected = re.findall(r"matchLabels: \{app: (\w+)\}", (folder / "network.yaml").read_text())
    assert set(selected) <= labels
    maps = {item["metadata"]["name"] for item in MANIFESTS if item["kind"] == "ConfigMap"}
    for container in CONTAINERS:
        assert {it["configMapRef"]["name"] for it in container.get("envFrom", [])} <= maps


def test_no_pod_runs_as_root_or_may_do_more_than_it_needs() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    for container in CONTAINERS:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        probes = {"readinessProbe", "livenessProbe"} & set(container)
        assert probes or container["name"] == "deploy"
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert "tmp" in mounts


def test_automations_are_some() -> None:
    for item in yaml.safe_load((DEPLOY / "automations.yaml").read_text("utf-8"))["automations"]:
        AutomationCore.model_validate(item)
