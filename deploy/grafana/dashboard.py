"""Generate Grafana's dashboard: `make dashboard`. A test compares the generated file."""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).parent / "provisioning/dashboards/channeltok.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # see provisioning/datasources
Query = tuple[str, str]  # PromQL, and the legend of each of its series

# Grafana's names of units.
SECONDS, SHARE, BYTES = "s", "percentunit", "bytes"
BYTES_PER_SECOND, PER_SECOND, COUNT = "Bps", "cps", "short"


def build() -> dashboard.Dashboard:
    """The dashboard: rows from what callers notice down to the causes."""
    return (
        dashboard.Dashboard("ChannelTok")
        .uid("channeltok")
        .description(
            "Health, load and latency of the service. If something is wrong, see docs/runbook."
        )
        .tags(["channeltok"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("15s")
        .with_row(dashboard.Row("Overview"))
        .with_panel(
            number("Alerts firing", COUNT, 'count(ALERTS{alertstate="firing"}) or vector(0)')
        )
        .with_panel(number("Gateways ready", COUNT, "sum(channeltok_ready)"))
        .with_panel(number("Goodput: images", PER_SECOND, per_second("channeltok_images_total")))
        .with_panel(
            number("Calls failed, last hour", SHARE, "channeltok:calls_failed:ratio_rate1h")
        )
        .with_panel(number("Calls slow, last hour", SHARE, "channeltok:calls_slow:ratio_rate1h"))
        .with_panel(
            number("Highest gateway load", SHARE, "max(instance:channeltok_in_flight:ratio)")
        )
        .with_panel(
            graph(
                "Calls",
                PER_SECOND,
                (per_second("channeltok_request_seconds_count", "rpc"), "{{rpc}}"),
            )
        )
        .with_panel(
            graph(
                "Calls by code",
                PER_SECOND,
                (per_second("channeltok_request_seconds_count", "code"), "{{code}}"),
            )
        )
        .with_panel(
            graph(
                "Alerts",
                COUNT,
                ('sum by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}"),
                no_value="none firing",
            )
        )
        .with_panel(latency("Latency, median", 0.5))
        .with_panel(latency("Latency, 95 %", 0.95))
        .with_panel(latency("Latency, 99 %", 0.99))
        .with_panel(
            budget_burn(
                "Availability: calls failed",
                "channeltok:calls_failed",
                "channeltok:availability:budget",
            )
        )
        .with_panel(
            budget_burn(
                "Latency: unary calls over 0.316 s",
                "channeltok:calls_slow",
                "channeltok:latency:budget",
            )
        )
        .with_row(dashboard.Row("Saturation"))
        .with_panel(
            graph(
                "Images in flight",
                COUNT,
                ("sum by (rpc) (channeltok_images_in_flight)", "{{rpc}}"),
                ("sum(channeltok_images_in_flight_limit)", "limit"),
            )
        )
        .with_panel(
            graph(
                "Images waiting for a permit",
                COUNT,
                ("sum by (priority) (channeltok_images_waiting)", "{{priority}}"),
            )
        )
        .with_panel(
            graph(
                "Images being decoded, and waiting for that",
                COUNT,
                ("sum by (lane) (channeltok_image_decodes)", "{{lane}}"),
                ("sum by (lane) (channeltok_image_decodes_waiting)", "{{lane}}, waiting"),
            )
        )
        .with_panel(
            graph(
                "Image workers replaced, by reason",
                PER_SECOND,
                (per_second("channeltok_image_worker_restarts_total", "reason"), "{{reason}}"),
            )
        )
        .with_panel(
            graph(
                "In flight / limit", SHARE, ("instance:channeltok_in_flight:ratio", "{{instance}}")
            )
        )
        .with_panel(
            graph(
                "Gateway: cores",
                COUNT,
                (
                    "sum by (instance) "
                    '(rate(process_cpu_seconds_total{job="gateway"}[$__rate_interval]))',
                    "{{instance}}",
                ),
            )
        )
        .with_panel(
            graph(
                "Gateway: memory",
                BYTES,
                (
                    'sum by (instance) (process_resident_memory_bytes{job="gateway"})',
                    "{{instance}}",
                ),
            )
        )
        .with_panel(
            graph(
                "Memory of messages and images",
                BYTES,
                ("sum by (use) (channeltok_memory_reserved_bytes)", "{{use}}"),
                ("sum(channeltok_memory_limit_bytes)", "limit"),
            )
        )
        .with_panel(
            graph(
                "Refused for memory",
                PER_SECOND,
                (per_second("channeltok_memory_refused_total", "instance"), "{{instance}}"),
            )
        )
        .with_panel(
            graph("Triton's host: cores in use", SHARE, ("nv_cpu_utilization", "{{instance}}"))
        )
        .with_row(dashboard.Row("Stages"))
        .with_panel(stages("Encode: mean time by stage", "encode"))
        .with_panel(stages("Decode: mean time by stage", "decode"))
        .with_panel(
            stage_by_budget("Encode: time in the engine, 95 %, by budget", "encode", "engine")
        )
        .with_panel(
            stage_by_budget(
                "Encode: wait for the engine, 95 %, by budget", "encode", "engine_queue"
            )
        )
        .with_panel(
            stage_by_budget("Decode: time in the engine, 95 %, by budget", "decode", "engine")
        )
        .with_panel(
            stage_by_budget(
                "Decode: wait for the engine, 95 %, by budget", "decode", "engine_queue"
            )
        )
        .with_row(dashboard.Row("Generate"))
        .with_panel(
            graph(
                "Generations in flight",
                COUNT,
                ("sum(channeltok_generations_in_flight)", "in flight"),
                ("sum(channeltok_generations_in_flight_limit)", "limit"),
            )
        )
        .with_panel(token_time("Time to first token", "channeltok_time_to_first_token_seconds"))
        .with_panel(token_time("Inter-token latency", "channeltok_inter_token_latency_seconds"))
        .with_row(dashboard.Row("Engine"))
        .with_panel(
            graph("Engine ready", COUNT, ("min by (model) (channeltok_engine_ready)", "{{model}}"))
        )
        .with_panel(
            graph(
                "Restarts in 15 minutes",
                COUNT,
                (
                    "sum by (component) (increase(channeltok_engine_restarts_total[15m]))",
                    "{{component}}",
                ),
            )
        )
        .with_panel(
            graph(
                "Lost lines of the log in 15 minutes",
                COUNT,
                (
                    "sum by (instance) (increase(channeltok_log_lines_lost_total[15m]))",
                    "{{instance}}",
                ),
            )
        )
        .with_panel(
            graph(
                "Batch: mean size",
                COUNT,
                ("model:channeltok_batch_size:mean5m", "{{model}}, per image"),
                ("model:nv_inference_batch:mean5m", "{{model}}, per batch"),
            )
        )
        .with_panel(
            graph(
                "Triton: inferences, probes included",
                PER_SECOND,
                (per_second("nv_inference_count", "model"), "{{model}}"),
            )
        )
        .with_panel(
            graph(
                "Triton: failures",
                PER_SECOND,
                (
                    per_second("nv_inference_request_failure", "model", "reason"),
                    "{{model}} {{reason}}",
                ),
            )
        )
        .with_panel(
            graph(
                "Triton: requests pending",
                COUNT,
                ("sum by (model) (nv_inference_pending_request_count)", "{{model}}"),
            )
        )
        .with_panel(triton_time("Triton: mean queue time", "nv_inference_queue_duration_us"))
        .with_panel(
            triton_time("Triton: mean compute time", "nv_inference_compute_infer_duration_us")
        )
        .with_row(dashboard.Row("Images, tokens, bytes"))
        .with_panel(
            graph("Images", PER_SECOND, (per_second("channeltok_images_total", "rpc"), "{{rpc}}"))
        )
        .with_panel(
            graph("Tokens", PER_SECOND, (per_second("channeltok_tokens_total", "rpc"), "{{rpc}}"))
        )
        .with_panel(
            graph(
                "Bytes of images",
                BYTES_PER_SECOND,
                (per_second("channeltok_image_bytes_total", "rpc"), "{{rpc}}"),
            )
        )
        .with_row(dashboard.Row("Budget mix: k rounded up to a power of two"))
        .with_panel(budget_mix("Encode", "encode"))
        .with_panel(budget_mix("Decode", "decode"))
        .with_panel(budget_mix("Encode in streams", "encode_stream"))
        .with_panel(budget_mix("Decode in streams", "decode_stream"))
        .with_row(dashboard.Row("Errors"))
        .with_panel(
            graph(
                "Errors by code",
                PER_SECOND,
                (per_second("channeltok_errors_total", "code"), "{{code}}"),
            )
        )
        .with_panel(
            graph(
                "Errors by code, share of all calls",
                SHARE,
                ("code:channeltok_errors:ratio_rate5m", "{{code}}"),
            )
        )
        .with_panel(
            graph(
                "Errors by rpc",
                PER_SECOND,
                (per_second("channeltok_errors_total", "rpc"), "{{rpc}}"),
            )
        )
        .with_row(dashboard.Row("Tokenizers"))
        .with_panel(
            listing(
                "Gateways by fingerprint",
                "count by (tokenizer, fingerprint) (channeltok_tokenizer_info == 1)",
            )
        )
        .with_panel(listing("Targets up", "min by (job, instance) (up)"))
        .with_panel(listing("Engines", "count by (model, engine) (channeltok_engine_info == 1)"))
    )


def per_second(counter: str, *by: str) -> str:
    """PromQL for the rate of a counter, summed by the labels `by`."""
    labels = f"by ({', '.join(by)}) " if by else ""
    return f"sum {labels}(rate({counter}[$__rate_interval]))"


def latency(title: str, quantile: float) -> timeseries.Panel:
    """A quantile of the latency of successful calls, by rpc."""
    buckets = (
        'sum by (rpc, le) (rate(channeltok_request_seconds_bucket{code="OK"}[$__rate_interval]))'
    )
    return graph(title, SECONDS, (f"histogram_quantile({quantile}, {buckets})", "{{rpc}}"))


def budget_burn(title: str, ratio: str, budget: str) -> timeseries.Panel:
    """Short and long window of the fast burn alert, the budget and the level of a page."""
    return graph(
        title,
        SHARE,
        (f"{ratio}:ratio_rate5m", "5 minutes"),
        (f"{ratio}:ratio_rate1h", "1 hour"),
        (budget, "budget"),
        (f"14.4 * {budget}", "page if both are above"),
        width=12,
    )


def stages(title: str, rpc: str) -> timeseries.Panel:
    """Mean time per stage, stacked to the mean call."""
    calls = f'{{rpc="{rpc}"}}[$__rate_interval]'
    seconds = f"sum by (stage) (rate(channeltok_stage_seconds_sum{calls}))"
    mean = f"{seconds} / sum by (stage) (rate(channeltok_stage_seconds_count{calls}))"
    return stacked(graph(title, SECONDS, (mean, "{{stage}}"), width=12))


def stage_by_budget(title: str, rpc: str, stage: str) -> timeseries.Panel:
    """95 % quantile of a stage, by k rounded up to a power of two."""
    calls = f'{{rpc="{rpc}", stage="{stage}"}}[$__rate_interval]'
    buckets = f"sum by (budget, le) (rate(channeltok_stage_seconds_bucket{calls}))"
    return graph(title, SECONDS, (f"histogram_quantile(0.95, {buckets})", "{{budget}}"), width=6)


def triton_time(title: str, microseconds: str) -> timeseries.Panel:
    """Mean of a duration counter of Triton, which has no histograms."""
    requests = "sum by (model) (rate(nv_inference_request_success[$__rate_interval]))"
    seconds = f"sum by (model) (rate({microseconds}[$__rate_interval])) / 1e6"
    return graph(title, SECONDS, (f"{seconds} / {requests}", "{{model}}"))


def token_time(title: str, seconds: str) -> timeseries.Panel:
    """Median, 95 % and 99 % of a histogram, by generator."""
    buckets = f"sum by (generator, le) (rate({seconds}_bucket[$__rate_interval]))"
    return graph(
        title,
        SECONDS,
        *(
            (f"histogram_quantile({q}, {buckets})", f"{{{{generator}}}}, {q:.0%}")
            for q in (0.5, 0.95, 0.99)
        ),
    )


def budget_mix(title: str, rpc: str) -> timeseries.Panel:
    """Share of each budget in an rpc's images, stacked to 1."""
    return stacked(
        graph(
            title,
            SHARE,
            (f'rpc_budget:channeltok_images:ratio_rate5m{{rpc="{rpc}"}}', "{{budget}}"),
            width=6,
        )
    )


def graph(
    title: str, unit: str, *queries: Query, width: int = 8, no_value: str = "no data"
) -> timeseries.Panel:
    """A panel of lines over time."""
    panel = (
        timeseries.Panel().title(title).unit(unit).min(0).datasource(SOURCE).span(width).height(8)
    )
    panel.show_points(VisibilityMode.NEVER).fill_opacity(8).no_value(no_value)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for index, (expr, legend) in enumerate(queries):
        panel.with_target(
            prometheus.Dataquery()
            .expr(expr)
            .legend_format(legend)
            .range()
            .ref_id(chr(ord("A") + index))
        )
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Stack the lines of a panel."""
    return panel.stacking(
        common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    ).fill_opacity(30)


def number(title: str, unit: str, expr: str) -> stat.Panel:
    """A panel with the latest value."""
    panel = (
        stat.Panel()
        .title(title)
        .unit(unit)
        .datasource(SOURCE)
        .span(4)
        .height(4)
        .no_value("no data")
    )
    return panel.with_target(prometheus.Dataquery().expr(expr).instant().ref_id("A"))


def listing(title: str, expr: str) -> table.Panel:
    """A table of the current values, a row per set of labels."""
    hide_time = DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}})
    panel = (
        table.Panel()
        .title(title)
        .datasource(SOURCE)
        .span(12)
        .height(8)
        .with_transformation(hide_time)
    )
    return panel.with_target(
        prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE).ref_id("A")
    )


def text() -> str:
    """The dashboard as JSON."""
    built = build().build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
