"""The rows of plan_published.yaml, and what the cost model predicts for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from hvdkit.planner.bill import bill_of
from hvdkit.planner.cluster import Cluster, Power
from hvdkit.planner.cluster_file import find_cluster
from hvdkit.planner.exchange_costs import ExchangeCost, exchange_cost
from hvdkit.planner.fitted import Fitted
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.links import Link
from hvdkit.planner.search import on_mesh
from hvdkit.planner.step import slowest_of, step_time
from hvdkit.planner.transformer import Degrees, TransformerShape
from hvdkit.planner.transformer_work import Transformer
from hvdkit.planner.units import quantity
from hvdkit.planner.work import MeasuredModel

FILE = Path(__file__).with_name("plan_published.yaml")
SECTIONS: dict[str, Any] = yaml.safe_load(FILE.read_text())
MODELS = SECTIONS.pop("models")["images"]
BERT = Transformer(TransformerShape(24, 1024, 16, 128, 30522, tied=True), "BERT-large")
BERT_ROWS = 64


@dataclass(frozen=True)
class Case:
    """A published row.

    Attributes:
        section: its list.
        name: what tables call it.
        published: the figure.
        half: "fit", "held out", or "given" for what is put in.
        predict: the same figure from the model, with some fitted numbers and `overhead`.
    """

    section: str
    name: str
    published: float
    half: str
    predict: Callable[[Fitted, float], float]

    def error(self, fitted: Fitted, overhead: float) -> float:
        """Predicted over published, less 1."""
        return self.predict(fitted, overhead) / self.published - 1


def cases() -> list[Case]:
    """All of them."""
    return [case for name, section in SECTIONS.items() for case in _section(name, section)]


def _section(name: str, section: Mapping[str, Any]) -> Iterator[Case]:
    for number, row in enumerate(section["rows"]):
        title, published, predict = _KINDS[section["kind"]](section, row)
        half = "held out" if number % 2 else "fit"
        if section["kind"] in ("energy", "emission"):
            half = "nothing fitted"
        if (section["kind"] == "images" and row[1] == 1) or (
            section["kind"] == "mlperf" and number == 0
        ):
            half = "given"
        yield Case(name, title, published, half, predict)


Found = tuple[str, float, Callable[[Fitted, float], float]]


def _gpt(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, width, layers, heads, tensor, pipeline, ranks, batch, published, *more = row
    shape = TransformerShape(layers, width, heads, section["context"], section["vocabulary"])
    asked = {**section["job"], **(more[2] if len(more) > 2 else {})}
    job = PlannedJob(
        batch,
        precision="mixed_bfloat16",
        recompute=asked.get("recompute", "none"),
        exchange=exchange_cost(asked["exchange"]),
        micro_batch=more[1] if more else None,
        chunks=None if asked.get("chunks") == "best" else more[0] if more else 1,
        sequence_parallel=asked.get("sequence_parallel", False),
        implementation_name=asked["implementation"],
        overlap=asked.get("overlap", True),
        overlap_tensor=asked.get("overlap_tensor", False),
    )
    degrees = Degrees(ranks // tensor // pipeline, pipeline, tensor)
    cluster = find_cluster(section["cluster"]).with_ranks(ranks)
    predict = partial(_of_gpt, section["value"], Transformer(shape, name), cluster, job, degrees)
    return f"{name}, {ranks} GPUs", published, predict


def _of_gpt(
    value: str,
    model: Transformer,
    cluster: Cluster,
    job: PlannedJob,
    degrees: Degrees,
    fitted: Fitted,
    overhead: float,
) -> float:
    found = on_mesh(model, cluster, job, degrees, fitted)
    if found.step is None:
        raise ValueError(f"{model.name} on {degrees}: {found.problem}")
    seconds = found.step.total
    if value == "seconds":
        return seconds
    flops = model.flops(job.batch, recomputed=value == "recomputed_tflops")
    per_device = flops / seconds / degrees.ranks
    peak = cluster.device(degrees, False).rate(16).peak
    return 100 * per_device / peak if value == "used" else per_device / 1e12


def _image_model(name: str, rows_per_second: Mapping[str, float]) -> MeasuredModel:
    sizes = MODELS[name]
    return MeasuredModel(
        name,
        sizes["parameters"],
        float(sizes["flops"]),
        float(sizes["kept"]),
        dict(rows_per_second),
    )


def _one_device(section: Mapping[str, Any], name: str) -> float:
    """Images a second of one device: the list's first row of this model."""
    if "one" in section:
        return float(section["one"][name])
    return float(next(row[2] for row in section["rows"] if row[0] == name and row[1] == 1))


def _images(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, ranks, published, *servers = row
    cluster = find_cluster(section["cluster"])
    device = cluster.hosts[0].device.name
    one = _one_device(section, name)
    rows = section["rows_of_rank"]
    rows = rows[name] if isinstance(rows, dict) else rows
    # One device by its FLOPs, to show how far these carry.
    model = _image_model(name, {} if ranks == 1 else {device: one})
    exchange = exchange_cost("all-reduce")
    if servers:
        hosts = ranks // cluster.per_host
        exchange = replace(exchange, reduced=exchange.reduced * hosts / servers[0])
    job = PlannedJob(  # with SGD
        rows * ranks, "float32", exchange=exchange, micro_batch=rows, optimizer_slots=0
    )

    def predict(fitted: Fitted, overhead: float) -> float:
        step = step_time(model, cluster.with_ranks(ranks), job, Degrees(data=ranks), rows, fitted)
        speed = job.batch / step.total
        return 100 * speed / one / ranks if section["value"] == "linear" else speed

    return f"{name}, {ranks}", published, predict


def _bert(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, ranks, published = row
    cluster = find_cluster(section["cluster"])
    exchange = exchange_cost("all-reduce") if name == "Horovod" else _through_servers()

    def speed(ranks: int, fitted: Fitted) -> float:
        job = PlannedJob(
            BERT_ROWS * ranks, exchange=exchange, micro_batch=BERT_ROWS, implementation_name="fused"
        )
        used = cluster.with_ranks(ranks)
        return job.batch / step_time(BERT, used, job, Degrees(ranks), BERT_ROWS, fitted).total

    def predict(fitted: Fitted, overhead: float) -> float:
        return 100 * speed(ranks, fitted) / ranks / speed(1, fitted)

    return name, published, predict


def _byteps(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, ranks, published = row
    cluster = find_cluster(section["cluster"]).with_ranks(ranks)
    model = _image_model(name, {cluster.hosts[0].device.name: _one_device(section, name)})
    rows = section["rows_of_rank"]

    def predict(fitted: Fitted, overhead: float) -> float:
        times = [
            step_time(
                model,
                cluster,
                PlannedJob(
                    rows * ranks, "float32", exchange=exchange, micro_batch=rows, optimizer_slots=0
                ),
                Degrees(ranks),
                rows,
                fitted,
            ).total
            for exchange in (exchange_cost("all-reduce"), _through_servers())
        ]
        return 100 * times[0] / times[1]

    return name, published, predict


def _through_servers() -> ExchangeCost:
    """Servers on hosts of their own: gradients go over a link once each way, not twice."""
    return replace(exchange_cost("all-reduce"), name="servers", reduced=2.0)


def _mlperf(section: Mapping[str, Any], row: list[Any]) -> Found:
    _, ranks, published, batch, epochs = row
    _, least, minutes, least_batch, least_epochs = section["rows"][0]
    images = section["images"]
    least_step = 60 * minutes * least_batch / (images * least_epochs)

    def predict(fitted: Fitted, overhead: float) -> float:
        of_row = (least_step - overhead) / (least_batch / least)
        step = overhead + of_row * batch / ranks
        step *= 1 + fitted.jitter * slowest_of(ranks // 8)
        return float(epochs * images / batch * step / 60)

    return f"{ranks} GPUs", published, predict


def _curve(section: Mapping[str, Any], row: list[Any]) -> Found:
    size, published = row
    rows = section["rows"]
    known = [[quantity(s, "a number of bytes"), t * 1e-6] for s, t in rows[::2]]
    link = Link.from_table([(s, t) for s, t in known], section["ranks"])
    wanted = quantity(size, "a number of bytes")
    return size, published, lambda fitted, overhead: 1e6 * link.all_reduce(wanted, section["ranks"])


def _network(section: Mapping[str, Any], row: list[Any]) -> Found:
    size, ranks, published = row
    cluster = find_cluster(section["cluster"])
    wanted = quantity(size, "a number of bytes")
    here = cluster.per_host

    def predict(fitted: Fitted, overhead: float) -> float:
        network = cluster.network.reached(fitted.wire)
        return 1e3 * network.all_reduce(wanted, here, ranks // here, here)

    return size, published, predict


def _energy(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, devices, watts, days, pue, published = row
    bill = bill_of(days * 86400, devices, watts, 0.0, Power(pue))
    return name, published, lambda fitted, overhead: bill.kwh / 1000


def _emission(section: Mapping[str, Any], row: list[Any]) -> Found:
    name, hours, watts, published = row
    bill = bill_of(hours * 3600, 1, watts, 0.0, Power(1.0, section["kg_per_kwh"]))
    return name, published, lambda fitted, overhead: bill.kg_co2 / 1000


_KINDS: dict[str, Callable[[Mapping[str, Any], list[Any]], Found]] = {
    "gpt": _gpt,
    "images": _images,
    "bert": _bert,
    "byteps": _byteps,
    "mlperf": _mlperf,
    "curve": _curve,
    "network": _network,
    "energy": _energy,
    "emission": _emission,
}

cases = cache(cases)
