"""Prometheus and Grafana as files: every metric on the dashboard is one that the service exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.metrics import Metrics
from service.metrics.workers import WorkerMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads(
    (DEPLOY / "grafana" / "dashboards" / "hatstand.json").read_text(encoding="utf-8")
)
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def _exported() -> set[str]:
    families = [*Metrics().registry.collect(), *text_string_to_metric_families(WorkerMetrics(2).render(num_ready=2))]
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.type]}


def _expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["query"]["query"]


def _metrics_in(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in re.findall(r"\b(?:hatstand|process)_\w+", expression)}


def test_every_metric_on_the_dashboard_is_exported() -> None:
    shown = _metrics_in(_expressions())

    assert len(shown) > 15
    assert shown <= _exported()


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = _metrics_in(_expressions())

    for family in Metrics().registry.collect():
        if family.name.startswith("hatstand_"):
            assert any(f"{family.name}{suffix}" in shown for suffix in SUFFIXES[family.type]), family.name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not taken & cells, panel["title"]
        assert box["x"] + box["w"] <= 24
        taken |= cells


def test_panels_use_the_provisioned_datasource() -> None:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    datasource = yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"][0]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

    assert datasource["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in panels} == {datasource["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_dashboards_are_provisioned_from_where_compose_mounts_them() -> None:
    provider = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "hatstand.yml").read_text(encoding="utf-8")
    )["providers"][0]
    grafana = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]
    path = provider["options"]["path"]

    assert f"./deploy/grafana/dashboards:{path}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(path)
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).is_file()


def test_prometheus_scrapes_the_services_of_the_compose_file() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    services = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    discovered = config["scrape_configs"][0]["dns_sd_configs"][0]

    assert set(discovered["names"]) <= set(services)
    assert discovered["port"] == 8000


def test_prometheus_reads_the_alerts_that_are_mounted_beside_its_configuration() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    prometheus = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8"))["services"][
        "prometheus"
    ]

    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    assert "./deploy/prometheus:/etc/prometheus:ro" in prometheus["volumes"]


def test_alerts_ask_for_metrics_and_labels_that_are_exported() -> None:
    labels = _labels()
    for rule in ALERTS:
        asked = _metrics_in(iter([rule["expr"]]))
        assert asked, rule["alert"]
        assert asked <= _exported(), rule["alert"]
        written = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        known = {"instance"}.union(*(labels[name] for name in asked))
        matched = re.findall(r"(\w+)(?:=~|!=|=)\"", rule["expr"])
        assert set(written) | set(matched) <= known, rule["alert"]


def test_alerts_have_names_of_their_own_and_say_how_urgent_they_are() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    assert {rule["labels"]["severity"] for rule in ALERTS} == {"page", "ticket"}


def _labels() -> dict[str, set[str]]:
    """The labels of every exported series."""
    metrics = Metrics()
    labels: dict[str, set[str]] = {}
    families = (metrics.http, metrics.recommend, metrics.people, metrics.engine)
    for collector in (one for family in families for one in vars(family).values()):
        for family in collector.describe() if hasattr(collector, "describe") else ():
            for suffix in SUFFIXES[family.type]:
                labels[f"{family.name}{suffix}"] = set(collector._labelnames)
    return {name: labels.get(name, set()) for name in _exported()} | labels
