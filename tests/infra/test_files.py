"""The files of infra/, checked without a cluster: schemas, names, files, commands."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from prefect.settings.models.root import Settings as PrefectSettings
from prefect_redis.client import RedisMessagingSettings
from pydantic import AliasChoices, BaseModel

from data.environment import Settings, variable_name
from flows.command import app
from flows.platform.deploy import prefect

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra/compose.yaml"
KUBERNETES = ROOT / "infra/kubernetes"
OTHERS = {  # of libraries and images that say themselves what they read
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "RAY_ADDRESS"),
    *("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    "GF_SECURITY_ADMIN_PASSWORD",
}


def variables(model: type[BaseModel]) -> Iterator[str]:
    """Each variable of the environment that Prefect reads into these settings."""
    for name, field in model.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):
            yield from (str(choice).upper() for choice in field.validation_alias.choices)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables(field.annotation)
        yield f"{model.model_config.get('env_prefix', '')}{name}".upper()


KNOWN = {
    *(variable_name(name) for name in Settings.model_fields),
    *variables(PrefectSettings),
    *variables(RedisMessagingSettings),
    *OTHERS,
}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


def manifests() -> list[dict[str, Any]]:
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [manifest for name in names for manifest in yaml.safe_load_all((KUBERNETES / name).read_text())]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The template of each pod, by what makes it."""
    templates = []
    for manifest in manifests():
        if manifest["kind"] == "RayCluster":
            groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
            templates += [(group.get("groupName", "head"), group["template"]) for group in groups]
        elif "template" in manifest.get("spec", {}):
            templates.append((manifest["metadata"]["name"], manifest["spec"]["template"]))
    return templates


def set_by_kubernetes() -> set[str]:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    literal = {line.partition("=")[0] for config in kustomization["configMapGenerator"] for line in config["literals"]}
    secret = {line.partition("=")[0] for line in (KUBERNETES / "secret.env.example").read_text().split() if "=" in line}
    containers = [container for _, template in pods() for container in template["spec"]["containers"]]
    return literal | secret | {variable["name"] for container in containers for variable in container.get("env", [])}


def set_by_workers() -> set[str]:
    kinds = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["workers"].values()
    return {name for kind in kinds for name in kind.get("env", {})}


def test_every_variable_that_is_set_is_read() -> None:
    by_compose = {name for service in compose()["services"].values() for name in service.get("environment", {})}
    assert {"IMAGEN_ENGINE", "PREFECT_API_URL", "PREFECT_REDIS_MESSAGING_HOST"} <= by_compose & KNOWN
    assert by_compose - KNOWN == set()
    assert set_by_kubernetes() - KNOWN == set()
    assert set_by_workers() - KNOWN == set()
    assert "PREFECT_NO_SUCH_THING" not in KNOWN


def test_a_service_of_compose_waits_for_services_and_their_health_checks() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= services.keys(), name
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}"


def test_every_image_of_compose_has_a_version() -> None:
    for name, service in compose()["services"].items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert tag not in {"", "latest"} or image == "imagen", f"{name}: which version of {service['image']}?"


def test_every_volume_of_compose_exists() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or (COMPOSE.parent / source).exists(), volume


def test_every_port_of_compose_is_on_the_loopback_address() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would listen to everybody at {port}"


def test_the_example_sets_every_variable_that_compose_requires() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    lines = (ROOT / "infra/compose.env.example").read_text().split()
    assert required == {line.partition("=")[0] for line in lines if "=" in line}


def test_compose_is_valid_to_docker() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no docker compose")
    environment = {**os.environ, **dict.fromkeys(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()), "x")}
    words = ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands() -> Iterator[tuple[str, list[str]]]:
    """What each container runs."""
    for name, service in compose()["services"].items():
        if service["image"].startswith("imagen"):
            yield name, [*service.get("entrypoint", ["imagen"]), *service["command"]]
    for name, template in pods():
        for container in template["spec"]["containers"]:
            if "command" in container or "args" in container:
                yield f"{name}/{container['name']}", [*container.get("command", ["imagen"]), *container.get("args", [])]


@cache
def prefect_help(*verbs: str) -> str:
    """The help page of one of Prefect's commands, which takes seconds."""
    return subprocess.run([prefect(), *verbs, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), list(commands()), ids=[name for name, _ in commands()])
def test_what_a_container_runs_is_a_command_that_takes_these_words(name: str, words: list[str]) -> None:
    if words[0] == "imagen":
        command = typer.main.get_command(app)
        verb = command.commands[words[1]]  # type: ignore[attr-defined]
        assert verb.make_context(words[1], words[2:]).params["recipe"] == ["shapes"]
    else:
        options = [word for word in words if word.startswith("--")]
        verbs = [word for word in words[1:] if word in {"server", "services", "worker", "start"}]
        help = prefect_help(*verbs)
        for option in options:
            assert option in help, f"{name}: {words}"


def test_manifests_are_what_kubernetes_takes() -> None:
    newest = kubernetes_validate.latest_version()
    checked = [manifest for manifest in manifests() if manifest["apiVersion"] != "ray.io/v1"]
    assert {manifest["kind"] for manifest in checked} == {"Deployment", "Service", "ServiceAccount", "Job"}
    for manifest in checked:
        kubernetes_validate.validate(manifest, newest, strict=True)
    for name, template in pods():  # those of Ray's nodes, too
        labels = {"app": name, **template.get("metadata", {}).get("labels", {})}
        template = {"metadata": {**template.get("metadata", {}), "labels": labels}, "spec": template["spec"]}
        if template["spec"].get("restartPolicy", "Always") == "Always":
            spec = {"selector": {"matchLabels": labels}, "template": template}
            deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
            kubernetes_validate.validate(deployment, newest, strict=True)


def test_manifests_select_and_mount_what_other_manifests_make() -> None:
    generated = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"]
    maps = {config["name"] for config in generated}
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pods()]
    for manifest in manifests():
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels
    for name, template in pods():
        for container in template["spec"]["containers"]:
            named = {
                kind: reference["name"] for source in container.get("envFrom", []) for kind, reference in source.items()
            }
            assert named["configMapRef"] in maps, name
            assert named["secretRef"] == "imagen"


def test_kustomize_renders_the_manifests() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl")
    words = ["kubectl", "kustomize", str(KUBERNETES)]
    rendered = list(yaml.safe_load_all(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    assert {manifest["metadata"]["namespace"] for manifest in rendered} == {"imagen"}
    assert len(rendered) == len(manifests()) + 2


def test_ray_is_the_version_that_is_locked() -> None:
    (cluster,) = (manifest for manifest in manifests() if manifest["kind"] == "RayCluster")
    assert f"ray=={cluster['spec']['rayVersion']}" in (ROOT / "requirements-dev.lock").read_text()


def test_grafana_shows_the_dashboard_from_prometheus() -> None:
    grafana = ROOT / "infra/grafana"
    (source,) = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((grafana / "provisioning/dashboards/imagen.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/imagen.json" in mounted


def test_what_prometheus_asks_is_a_service() -> None:
    jobs = yaml.safe_load((ROOT / "infra/prometheus.yml").read_text())["scrape_configs"]
    targets = {target.partition(":")[0] for job in jobs for each in job["static_configs"] for target in each["targets"]}
    assert targets <= compose()["services"].keys()


def test_the_image_holds_what_its_commands_read() -> None:
    copied = " ".join(line for line in (ROOT / "infra/Dockerfile").read_text().split("\n") if line.startswith("COPY"))
    needed = ["data", "imagen", "flows", "prefect.yaml", "infra/automations.yaml", "Makefile", "pyproject.toml"]
    for file in (*needed, *(path.name for path in ROOT.glob("requirements*"))):
        assert f" {file} " in f"{copied} "


def test_hooks_before_a_commit_are_what_lint_runs() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in repositories[0]["hooks"]]
    planned = subprocess.run(
        ["make", "--dry-run", "lint", "--old-file", ".venv/.develop"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tools = re.findall(r"^\.venv/bin/(?!uv)(.*)$", planned.stdout, flags=re.M)
    assert hooks == [f".venv/bin/{tool}".replace(" --check", "").removesuffix(" .") for tool in tools]


def test_a_dev_container_installs_the_developers_environment() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["image"].endswith(":3.11")
    target = container["postCreateCommand"].removeprefix("make ")
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)
