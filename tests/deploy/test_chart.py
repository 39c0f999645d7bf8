"""The Helm chart: linted and rendered by Helm's own library, held against Kubernetes' schemas and the code."""

import json
import logging
import math
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsp.events.topics import Topic
from dsp.openrtb.profile import load_profiles
from dsp.workers.config import METERED
from tests.deploy import processes
from tests.deploy.files import DASHBOARDS, ROOT, RUNBOOKS, rules
from tests.deploy.test_containers import image_environment
from tests.servers import absent

CHART = ROOT / "deploy" / "helm" / "dsp"
KUBERNETES = ("1.29", "1.34")  # the oldest that the chart allows, and a recent one
#: Secrets stand for what their references would bring in.
SECRETS = {
    "DSP_PLATFORM_DATABASE_URL": "postgresql://dsp:hunter2@db/dsp",
    "DSP_PLATFORM_CACHE_URL": "redis://:hunter2@cache:6379/0",
    "DSP_PLATFORM_SIGNING_KEYS": json.dumps(["0123456789abcdef" * 4]),
    "DSP_PLATFORM_HASH_KEY": "fedcba9876543210" * 4,
}
VALUES: dict[str, Any] = {"settings": {"bidder": {"notice_base_url": "https://notices.example"}}}
FULL: dict[str, Any] = {
    "settings": {
        "platform": {"currency_rates": {"USD": 1.0, "EUR": 1.2}, "privacy_vendor_id": 1234567},
        "bidder": {"notice_base_url": "https://notices.example", "drain_timeout_ms": 7500, "trace_share": 0.001,
                   "trace_url": "http://collector:4318/v1/traces", "exposures_max": 2000000},
        "api": {"drain_timeout_seconds": 60},
        "workers": {"traffic_curve": [1.0] * 24},
        "training": {"rows_max": 3000000},
    },
    "exchanges": {"one": 'seat = "dsp"\ntmax_default_ms = 120\n'},
    "imagePullSecrets": [{"name": "registry"}],
    "storage": {"existingClaim": "mine"},
    "bidder": {"gpu": 1, "autoscaling": {"enabled": False}, "nodeSelector": {"gpu": "yes"}, "annotations": {"a": "b"},
               "tolerations": [{"key": "gpu", "operator": "Exists"}],
               "service": {"type": "LoadBalancer", "annotations": {"c": "d"}}},
    "networkPolicy": {"bidFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "apiFrom": [{"podSelector": {}}]},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "runbookBase": "https://git.example/"},
}  # fmt: skip
CASES = {"default": VALUES, "full": FULL}
OPERATOR = "monitoring.coreos.com/v1"  # no schema of these comes with Kubernetes


@pytest.fixture(scope="module")
def helm() -> Any:
    try:
        import helm_python
    except ImportError:
        absent("no Helm: install the extra `deploy`")
    return helm_python


@pytest.fixture(scope="module")
def rendered(helm: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the objects that each case renders to."""
    found = {}
    with helm.Chart.load(str(CHART)) as chart:
        for name, values in CASES.items():
            chart.validate_schema(chart.merge_values(values))
            texts = chart.render(values, name="dsp", namespace="dsp").values()
            found[name] = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return found


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return rendered[request.param]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each workload, and its pod's template."""
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]
        elif one["kind"] == "CronJob":
            yield one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def environment(objects: list[dict[str, Any]], container: dict[str, Any]) -> dict[str, str]:
    """Return the DSP_ variables that a container gets from the image, its ConfigMap and its own list."""
    env = image_environment()
    for source in container.get("envFrom", ()):
        env |= of_kind(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for entry in container.get("env", ()):
        reference = entry["valueFrom"]
        env[entry["name"]] = SECRETS[entry["name"]] if "secretKeyRef" in reference else "a-pod"
    return {name: value for name, value in env.items() if name.startswith("DSP_") and name != "DSP_CONFIG"}


def test_helm_has_no_complaint(helm: Any) -> None:
    found = helm.lint(str(CHART))
    assert not found["errors"]
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_objects_are_what_kubernetes_takes(objects: list[dict[str, Any]]) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        absent("no schemas of Kubernetes: install the extra `deploy`")
    logging.getLogger("kubernetes_validate").setLevel(logging.ERROR)
    checked = 0
    for one in objects:
        if one["apiVersion"] == OPERATOR:
            continue
        for version in KUBERNETES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kubernetes_validate.validate(one, version, strict=True)
        checked += 1
    assert checked >= 20


def test_what_is_no_value_is_refused(helm: Any) -> None:
    wrong: list[dict[str, Any]] = [
        {"bidders": {"replicas": 3}},
        {"workers": {"training_log": {"replicas": 2}}},
        {"settings": {"bidder": {"notice_base_url": "notices.example"}}},
        {"secrets": {"database": {"name": ""}}},
    ]
    with helm.Chart.load(str(CHART)) as chart:
        for values in wrong:
            with pytest.raises(helm.HelmError):
                chart.render({**VALUES, **values}, name="dsp", namespace="dsp")
        with pytest.raises(helm.HelmError, match="notice_base_url"):
            chart.render({}, name="dsp", namespace="dsp")


def test_every_process_of_the_platform_is_there(objects: list[dict[str, Any]]) -> None:
    commands = sorted(" ".join(pod["spec"]["containers"][0]["args"][2:]) for _, pod in pods(objects))
    assert commands == sorted(
        ["bidder", "dsp api", "dsp migrate", "models nightly --json", "models online"]
        + [f"dsp worker {name}" for name in METERED if name != "online"]
    )


def test_commands_settings_and_ports_exist(objects: list[dict[str, Any]]) -> None:
    for name, pod in pods(objects):
        (container,) = pod["spec"]["containers"]
        processes.check_command(container["args"])
        listening = processes.ports(environment(objects, container), container["args"])
        assert {port["name"]: port["containerPort"] for port in container.get("ports", ())} == listening, name
        probes = [container[key] for key in container if key.endswith("Probe")]
        assert bool(probes) == bool(listening), name
        assert all(probe["httpGet"]["port"] in listening for probe in probes), name


def test_every_process_has_the_image_s_init_above_it(objects: list[dict[str, Any]]) -> None:
    """A `command` of Kubernetes would take its place."""
    assert not [name for name, pod in pods(objects) if "command" in pod["spec"]["containers"][0]]


def test_settings_arrive_as_they_were_written(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """Among them large numbers, which Helm reads as floats."""
    (container,) = dict(pods(rendered["full"]))["dsp-bidder"]["spec"]["containers"]
    tables: dict[str, Any] = processes.settings(environment(rendered["full"], container))
    for table, wanted in FULL["settings"].items():
        assert {name: getattr(tables[table], name) for name in wanted} == {
            name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()
        }
    assert tables["platform"].exchanges_dir == "/etc/dsp/exchanges"
    assert tables["bidder"].holder == "a-pod"
    assert tables["platform"].signing_keys


def test_exchanges_are_profiles(rendered: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    for name, text in of_kind(rendered["full"], "ConfigMap")["dsp-exchanges"]["data"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_profiles(tmp_path)["one"].tmax_default_ms == 120


def test_pods_are_locked_down(objects: list[dict[str, Any]]) -> None:
    claimed = {
        name: [claim["metadata"]["name"] for claim in one["spec"]["volumeClaimTemplates"]]
        for name, one in of_kind(objects, "StatefulSet").items()
    }
    for name, pod in pods(objects):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] == 10001, name
        assert not spec["automountServiceAccountToken"], name
        assert not spec["enableServiceLinks"], name  # a Service's variables look like settings, and would be refused
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"], name
        assert not security["allowPrivilegeEscalation"], name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"]["requests"]["memory"], name
        assert container["resources"]["limits"]["memory"], name
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/dsp"} <= mounts, name
        volumes = [*(volume["name"] for volume in spec["volumes"]), *claimed.get(name, ())]
        assert sorted({mount["name"] for mount in container["volumeMounts"]}) == sorted(volumes), name


def test_processes_get_the_secrets_that_they_use_and_no_others(objects: list[dict[str, Any]]) -> None:
    found = {
        name: {entry["name"].removeprefix("DSP_PLATFORM_") for entry in pod["spec"]["containers"][0].get("env", ())}
        for name, pod in pods(objects)
    }
    workers = {f"dsp-worker-{name.replace('_', '-')}" for name in METERED}
    assert found == {
        "dsp-bidder": {"CACHE_URL", "SIGNING_KEYS", "HASH_KEY", "DSP_BIDDER_HOLDER"},
        "dsp-migrate": {"DATABASE_URL"},
        "dsp-nightly": set(),
        **{key: {"DATABASE_URL", "CACHE_URL"} for key in ("dsp-api", *workers)},
        "dsp-worker-online": {"CACHE_URL"},
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert "hunter2" not in json.dumps(objects)
    assert not {"database_url", "cache_url", "signing_keys", "hash_key"} & set(values["settings"]["platform"])


def test_a_bidder_has_time_to_drain(objects: list[dict[str, Any]]) -> None:
    spec = dict(pods(objects))["dsp-bidder"]["spec"]
    (container,) = spec["containers"]
    bidder: Any = processes.settings(environment(objects, container))["bidder"]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # Three ports and the outbox, one after the other.
    drain = bidder.drain_wait_ms / 1_000 + 4 * math.ceil(bidder.drain_timeout_ms / 1_000)
    assert spec["terminationGracePeriodSeconds"] >= pre_stop + drain
    # Not ready is seen twice before the port closes.
    readiness = container["readinessProbe"]
    assert bidder.drain_wait_ms / 1_000 >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_the_api_has_time_to_drain(objects: list[dict[str, Any]]) -> None:
    spec = dict(pods(objects))["dsp-api"]["spec"]
    (container,) = spec["containers"]
    api: Any = processes.settings(environment(objects, container))["api"]
    drain = container["lifecycle"]["preStop"]["sleep"]["seconds"] + api.drain_timeout_seconds
    assert spec["terminationGracePeriodSeconds"] >= drain + 10  # and its connections to the servers


def test_bidders_scale_by_requests_in_flight_and_processor(rendered: dict[str, list[dict[str, Any]]]) -> None:
    scaler = of_kind(rendered["default"], "HorizontalPodAutoscaler")["dsp-bidder"]["spec"]
    in_flight, processor = scaler["metrics"]
    assert in_flight["pods"]["metric"]["name"] in {"dsp_inflight_requests"} & set(_metric_names())
    assert processor["resource"]["name"] == "cpu"
    target = scaler["scaleTargetRef"]
    assert target["apiVersion"] == "apps/v1"
    assert "replicas" not in of_kind(rendered["default"], target["kind"])[target["name"]]["spec"]
    assert of_kind(rendered["full"], "StatefulSet")["dsp-bidder"]["spec"]["replicas"] == 4
    assert not of_kind(rendered["full"], "HorizontalPodAutoscaler")


def test_an_update_takes_one_bidder_at_a_time_and_the_others_carry_the_traffic(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    bidders = of_kind(rendered["default"], "StatefulSet")["dsp-bidder"]["spec"]
    assert bidders["podManagementPolicy"] == "Parallel"
    assert bidders["updateStrategy"] == {"type": "RollingUpdate"}  # one at a time; none is held back by a partition
    assert bidders["minReadySeconds"] >= 5
    scaler = of_kind(rendered["default"], "HorizontalPodAutoscaler")["dsp-bidder"]["spec"]
    least, percent = scaler["minReplicas"], scaler["metrics"][1]["resource"]["target"]["averageUtilization"]
    assert percent * least / (least - 1) <= 80


def test_what_a_bidder_acknowledged_outlives_its_pod(objects: list[dict[str, Any]]) -> None:
    bidders = of_kind(objects, "StatefulSet")["dsp-bidder"]["spec"]
    assert bidders["persistentVolumeClaimRetentionPolicy"] == {"whenScaled": "Retain", "whenDeleted": "Retain"}
    (container,) = bidders["template"]["spec"]["containers"]
    tables: dict[str, Any] = processes.settings(environment(objects, container))
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == tables["platform"].data_dir]
    assert [one["metadata"]["name"] for one in bidders["volumeClaimTemplates"]] == [mount["name"]]
    assert not mount.get("readOnly")
    # The place on the volume is named after the holder: another name would not find what the last pod left.
    (holder,) = [one for one in container["env"] if one["name"] == "DSP_BIDDER_HOLDER"]
    assert holder["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    (claim,) = bidders["volumeClaimTemplates"]
    gibibytes = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert gibibytes
    topics = set(Topic) - {Topic.DEAD_LETTERS}
    assert int(gibibytes[1]) * 2**30 >= 1.5 * len(topics) * tables["bidder"].outbox_spill_records_max * 1_000
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_bidders_have_the_service_that_names_them(objects: list[dict[str, Any]]) -> None:
    bidders = of_kind(objects, "StatefulSet")["dsp-bidder"]["spec"]
    services = of_kind(objects, "Service")
    assert services[bidders["serviceName"]]["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in services["dsp-bidder"]["spec"]
    listening = {port["name"] for port in bidders["template"]["spec"]["containers"][0]["ports"]}
    for name in (bidders["serviceName"], "dsp-bidder"):
        assert {port["targetPort"] for port in services[name]["spec"]["ports"]} == listening - {"admin"}


def test_an_upgrade_leaves_alone_what_kubernetes_lets_nobody_change(
    helm: Any, rendered: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(CHART, tmp_path / "dsp")
    described = tmp_path / "dsp" / "Chart.yaml"
    described.write_text(described.read_text(encoding="utf-8").replace("0.1.0", "0.2.0"), encoding="utf-8")
    with helm.Chart.load(str(tmp_path / "dsp")) as chart:
        texts = chart.render(FULL | {"image": {"tag": "other"}}, name="dsp", namespace="dsp").values()
    later = [one for text in texts for one in yaml.safe_load_all(text) if one]
    before, after = (of_kind(one, "StatefulSet")["dsp-bidder"] for one in (rendered["default"], later))
    assert before["metadata"]["labels"] != after["metadata"]["labels"]
    changeable = {"replicas", "template", "updateStrategy", "minReadySeconds", "persistentVolumeClaimRetentionPolicy"}
    fixed = [{key: one["spec"][key] for key in one["spec"].keys() - changeable} for one in (before, after)]
    assert fixed[0] == fixed[1]
    assert fixed[0].keys() == {"podManagementPolicy", "selector", "serviceName", "volumeClaimTemplates"}


def test_commands_of_the_documentation_name_what_is_there(rendered: dict[str, list[dict[str, Any]]]) -> None:
    kinds = {"deployment": "Deployment", "statefulset": "StatefulSet", "hpa": "HorizontalPodAutoscaler"}
    pages = [ROOT / "docs" / "deploy.md", *RUNBOOKS.glob("*.md")]
    named = {
        found
        for page in pages
        for found in re.findall(rf"\b({'|'.join(kinds)})[/ ](dsp-[a-z-]+)", page.read_text("utf-8"))
    }
    assert {kind for kind, _ in named} == set(kinds)
    assert not [one for one in named if one[1] not in of_kind(rendered["default"], kinds[one[0]])]


def _metric_names() -> set[str]:
    from tests.deploy.files import declared

    return set(declared())


def test_several_pods_spread_and_are_not_evicted_at_once(objects: list[dict[str, Any]]) -> None:
    for name in ("dsp-bidder", "dsp-api", "dsp-worker-ledger"):
        template = dict(pods(objects))[name]
        constraints = template["spec"]["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in constraints} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        labels = template["metadata"]["labels"].items()
        assert all(one["labelSelector"]["matchLabels"].items() <= labels for one in constraints)
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        selector = (of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet"))[name]["spec"]["selector"]
        assert budget["spec"]["selector"] == selector
    assert set(of_kind(objects, "PodDisruptionBudget")) == {"dsp-bidder", "dsp-api"}


def test_selectors_find_their_pods_and_no_others(objects: list[dict[str, Any]]) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects)}
    for kind in ("Deployment", "StatefulSet", "Service"):
        for name, one in of_kind(objects, kind).items():
            selector = one["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            found = [pod for pod, own in labels.items() if wanted.items() <= own.items()]
            assert found == [name.removesuffix("-headless")]


def test_every_pod_is_behind_a_network_policy(objects: list[dict[str, Any]]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    for name, pod in pods(objects):
        labels = pod["metadata"]["labels"]
        covering = [policy for policy, one in policies.items() if _selects(one["spec"]["podSelector"], labels)]
        assert len(covering) == 1, name
    ports = {
        name: [rule["ports"][0]["port"] for rule in one["spec"].get("ingress", ())] for name, one in policies.items()
    }
    assert ports == {
        "dsp-bidder": ["bid", "notice", "admin"], "dsp-api": ["http"], "dsp-workers": ["metrics"], "dsp-jobs": [],
    }  # fmt: skip
    admin = policies["dsp-bidder"]["spec"]["ingress"][2]
    assert admin["from"], "the admin port is not for everyone"


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    return equal and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


def test_migrations_run_before_anything_is_changed(objects: list[dict[str, Any]]) -> None:
    job = of_kind(objects, "Job")["dsp-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "envFrom" not in container  # the ConfigMap is not there yet
    names = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert names == {"data", "tmp"}  # nor is the claim


def test_one_at_a_time_where_there_is_to_be_one(objects: list[dict[str, Any]]) -> None:
    for name, deployment in of_kind(objects, "Deployment").items():
        single = name in ("dsp-worker-training-log", "dsp-worker-online")
        assert (deployment["spec"]["strategy"]["type"] if "strategy" in deployment["spec"] else "") == (
            "Recreate" if single else "RollingUpdate" if name != "dsp-api" else ""
        )
    assert of_kind(objects, "CronJob")["dsp-nightly"]["spec"]["concurrencyPolicy"] == "Forbid"


def test_models_are_shared(objects: list[dict[str, Any]]) -> None:
    written, read = set(), set()
    for name, pod in pods(objects):
        for mount in pod["spec"]["containers"][0]["volumeMounts"]:
            if mount["name"] == "shared":
                assert mount["mountPath"] == f"/var/lib/dsp/{mount['subPath']}"
                (read if mount.get("readOnly") else written).add((name, mount["subPath"]))
    assert written == {
        ("dsp-nightly", "models"), ("dsp-worker-online", "models"), ("dsp-worker-training-log", "training"),
    }  # fmt: skip
    assert read == {("dsp-bidder", "models"), ("dsp-nightly", "training")}


def test_monitoring_brings_the_same_rules_and_dashboards(rendered: dict[str, list[dict[str, Any]]]) -> None:
    objects = rendered["full"]
    (rule,) = of_kind(objects, "PrometheusRule").values()
    made = [each for group in rule["spec"]["groups"] for each in group["rules"]]
    wanted = [*rules("recording"), *rules("alerts")]
    for one in wanted:
        if "annotations" in one:
            one["annotations"]["runbook_url"] = "https://git.example/" + one["annotations"]["runbook_url"]
    assert made == wanted
    boards = {
        name: json.loads(text)
        for config in of_kind(objects, "ConfigMap").values()
        if config["metadata"]["labels"].get("grafana_dashboard")
        for name, text in config["data"].items()
    }
    assert boards == {path.name: json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS}
    jobs = [
        endpoint["relabelings"][0]["replacement"]
        for one in objects
        if one["kind"] in ("PodMonitor", "ServiceMonitor")
        for endpoint in one["spec"].get("podMetricsEndpoints") or one["spec"]["endpoints"]
    ]
    assert sorted(jobs) == ["dsp-api", "dsp-bidder", "dsp-worker"]
    assert all("dsp-dashboard" not in name for name in of_kind(rendered["default"], "ConfigMap"))
