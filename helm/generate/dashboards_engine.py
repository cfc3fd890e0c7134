"""The dashboard Engine: what the replicas do with their GPUs, and which resource limits them.

Its rows are in the order in which one looks for the cause of a late first token.
"""

from __future__ import annotations

from dashboards_panels import Panel, Query, dashboard_json, lines, number, variable
from dashboards_queries import metric, quantile, rate, total

from serve_app import metrics

REPLICA = 'replica=~"$replica"'
ENGINE_STAGES = ("queue", "encode", "prefill", "decode_step")
PICTURE_STAGES = ("fetch", "decode", "resize", "tokenize")


def _share(used: metrics.Metric, available: metrics.Metric) -> str:
    return f"{total(used, REPLICA)} / {total(available, REPLICA)}"


def _hit_share() -> str:
    hits, misses = rate(metrics.FEATURE_CACHE_HITS, REPLICA), rate(metrics.FEATURE_CACHE_MISSES, REPLICA)
    return f"({hits} or vector(0)) / ((({hits} or vector(0)) + ({misses} or vector(0))) > 0)"


def _fullest_gpu() -> str:
    return f"max({metric(metrics.VRAM_DEVICE_USED, REPLICA)} / ({metric(metrics.VRAM_DEVICE_TOTAL, REPLICA)} > 0))"


def _stages(title: str, description: str, stages: tuple[str, ...], width: int) -> Panel:
    selected = [f'stage=~"{"|".join(stages)}"', *((REPLICA,) if stages == ENGINE_STAGES else ())]
    return lines(
        title,
        description,
        "s",
        Query(quantile(0.5, metrics.STAGE_SECONDS, *selected, by="stage"), "{{stage}} p50", dashed=True),
        Query(quantile(0.95, metrics.STAGE_SECONDS, *selected, by="stage"), "{{stage}} p95"),
        width=width,
    )


def engine() -> str:
    """The dashboard as JSON."""
    return dashboard_json(
        "glm-engine",
        "GLM Vision Serve / Engine",
        "What the engine replicas do with their GPUs: throughput, capacity, time by stage, memory, machine.",
        [
            variable(
                "replica",
                "Replica",
                f'ray_{metrics.SLOTS.name}{{namespace="$namespace", release="$release", ray_io_cluster=~"$cluster"}}',
                "replica",
                multiple=True,
            )
        ],
        [
            (
                "Utilization",
                [
                    number(
                        "Answer tokens",
                        "Answer tokens generated per second, by all replicas.",
                        "short",
                        rate(metrics.OUTPUT_TOKENS, REPLICA),
                    ),
                    number(
                        "Batch size, p50",
                        "Sequences in one decode step. Larger batches give more tokens in nearly the same time.",
                        "short",
                        quantile(0.5, metrics.BATCH_SIZE, REPLICA),
                    ),
                    number(
                        "Slots in use",
                        "Slots that hold a sequence. At 100 % new requests wait.",
                        "percentunit",
                        _share(metrics.SLOTS_USED, metrics.SLOTS),
                        (0.8, "orange"),
                        (0.99, "red"),
                    ),
                    number(
                        "GPU memory",
                        "Memory in use by all processes, as a share, of the device with the most.",
                        "percentunit",
                        _fullest_gpu(),
                        (0.9, "orange"),
                        (0.95, "red"),
                        none="no GPU",
                    ),
                    number(
                        "GPU utilization",
                        "Mean over all devices. Slices of a device (MIG) have none: Ray reports -1.",
                        "percent",
                        f"avg({metric('ray_node_gpus_utilization')} >= 0)",
                        none="no GPU",
                    ),
                    number(
                        "Out of memory",
                        "Out-of-memory errors since the replicas' nodes started.",
                        "short",
                        f"{total(metrics.OUT_OF_MEMORY, REPLICA)} or vector(0)",
                        (1, "red"),
                    ),
                ],
            ),
            (
                "Throughput",
                [
                    lines(
                        "Tokens per second",
                        "Prompt tokens, those of them that represent pictures or were in pages of an earlier prompt,"
                        " and answer tokens.",
                        "short",
                        Query(rate(metrics.PROMPT_TOKENS, REPLICA), "prompt"),
                        Query(rate(metrics.PREFIX_TOKENS, REPLICA), "prompt, from pages"),
                        Query(rate(metrics.IMAGE_TOKENS, REPLICA), "prompt, pictures only"),
                        Query(rate(metrics.OUTPUT_TOKENS, REPLICA), "answer"),
                    ),
                    lines(
                        "Batch size",
                        "Sequences in one decode step.",
                        "short",
                        Query(quantile(0.5, metrics.BATCH_SIZE, REPLICA), "p50"),
                        Query(quantile(0.95, metrics.BATCH_SIZE, REPLICA), "p95"),
                    ),
                    lines(
                        "Answer tokens by replica",
                        "A replica that is far below the others is slow, or gets fewer requests.",
                        "short",
                        Query(rate(metrics.OUTPUT_TOKENS, REPLICA, by="replica"), "{{replica}}"),
                        stacked=True,
                    ),
                ],
            ),
            (
                "Capacity",
                [
                    lines(
                        "Slots",
                        "Slots that hold a sequence, by replica, and the number of all slots (dashed).",
                        "short",
                        Query(total(metrics.SLOTS_USED, REPLICA, by="replica"), "{{replica}}"),
                        Query(total(metrics.SLOTS, REPLICA), "all slots", dashed=True),
                        width=6,
                        stacked=True,
                    ),
                    lines(
                        "Waiting for a slot",
                        "Requests in each replica's queue.",
                        "short",
                        Query(total(metrics.WAITING, REPLICA, by="replica"), "{{replica}}"),
                        width=6,
                        stacked=True,
                    ),
                    lines(
                        "KV cache in use",
                        "Share of the cache's tokens in use. If slots are full and this is low, sequences are much "
                        "shorter than model.context_tokens: lower it and raise engine.max_slots.",
                        "percentunit",
                        Query(_share(metrics.KV_TOKENS_USED, metrics.KV_TOKENS), "in use"),
                        width=6,
                        maximum=1,
                    ),
                    lines(
                        "Picture feature cache hits",
                        "Share of pictures whose features were in the cache, so that they were not encoded again.",
                        "percentunit",
                        Query(_hit_share(), "hits"),
                        width=6,
                        maximum=1,
                    ),
                ],
            ),
            (
                "Time by stage",
                [
                    _stages(
                        "Engine",
                        "Wait for a slot, encoding of a request's pictures, one prefill chunk, one decode step.",
                        ENGINE_STAGES,
                        12,
                    ),
                    _stages(
                        "Preprocess",
                        "Fetch by address, decode, resize, template and tokenize: CPU work of preprocess and ingress.",
                        PICTURE_STAGES,
                        12,
                    ),
                    *(
                        lines(
                            f"{title} by replica, p95",
                            "A replica above the others has a slow GPU, or shares it.",
                            "s",
                            Query(
                                quantile(0.95, metrics.STAGE_SECONDS, f'stage="{stage}"', REPLICA, by="replica"),
                                "{{replica}}",
                            ),
                        )
                        for title, stage in (
                            ("Encode", "encode"),
                            ("Prefill", "prefill"),
                            ("Decode step", "decode_step"),
                        )
                    ),
                ],
            ),
            (
                "Memory",
                [
                    lines(
                        "GPU memory by replica",
                        "Memory of tensors, memory held by the allocator, and the peak of tensors (dashed).",
                        "bytes",
                        Query(total(metrics.VRAM_ALLOCATED, REPLICA, by="replica"), "{{replica}} tensors"),
                        Query(total(metrics.VRAM_RESERVED, REPLICA, by="replica"), "{{replica}} allocator"),
                        Query(total(metrics.VRAM_PEAK, REPLICA, by="replica"), "{{replica}} peak", dashed=True),
                    ),
                    lines(
                        "GPU memory of the device",
                        "Memory in use by all processes, and the device's size (dashed). If it is more than the "
                        "allocator holds, other processes use the device.",
                        "bytes",
                        Query(total(metrics.VRAM_DEVICE_USED, REPLICA, by="replica"), "{{replica}} used"),
                        Query(
                            total(metrics.VRAM_DEVICE_TOTAL, REPLICA, by="replica"), "{{replica}} device", dashed=True
                        ),
                    ),
                    lines(
                        "Out of memory",
                        "Out-of-memory errors since the replica's node started. The request got an error, or its step "
                        "was repeated.",
                        "short",
                        Query(f"{total(metrics.OUT_OF_MEMORY, REPLICA, by='replica')} or vector(0)", "{{replica}}"),
                    ),
                    lines(
                        "Picture feature cache",
                        "Memory of the feature cache, at most engine.feature_cache_mib.",
                        "bytes",
                        Query(total(metrics.FEATURE_CACHE_BYTES, REPLICA, by="replica"), "{{replica}}"),
                        width=6,
                    ),
                    lines(
                        "Pictures without pixels",
                        "Pictures a second whose pixels were not sent to the engine: known there, or needed after all. "
                        "Many needed ones mean that features and pages are evicted before follow-ups come.",
                        "short",
                        Query(rate(metrics.PICTURES_WITHOUT_PIXELS, REPLICA, by="result"), "{{result}}"),
                        width=6,
                    ),
                    lines(
                        "Memory of replicas",
                        "Resident memory of each stage's processes, by pod. A line that only rises is a leak.",
                        "bytes",
                        Query(
                            total("ray_component_rss_bytes", 'Component=~"ray::ServeReplica:.+"', by="pod, Component"),
                            "{{pod}} {{Component}}",
                        ),
                        width=6,
                    ),
                    lines(
                        "Model load time",
                        "Time that each replica took to load its model, the minimum time of scaling up.",
                        "s",
                        Query(f"max by (replica) ({metric(metrics.MODEL_LOAD_SECONDS, REPLICA)})", "{{replica}}"),
                        width=6,
                    ),
                ],
            ),
            (
                "Machine",
                [
                    lines(
                        "GPU utilization",
                        "Share of time in which a kernel ran, by device; none for slices of a device (MIG).",
                        "percent",
                        Query(f"{metric('ray_node_gpus_utilization')} >= 0", "{{pod}} {{GpuIndex}}"),
                        maximum=100,
                    ),
                    lines(
                        "GPU power",
                        "Power of each device. High utilization with low power: the kernels wait for memory or for the "
                        "CPU.",
                        "watt",
                        Query(f"{metric('ray_node_gpu_power_milliwatts')} / 1000", "{{pod}} {{GpuIndex}}"),
                    ),
                    lines(
                        "GPU temperature",
                        "Above about 85 °C most GPUs reduce their clock.",
                        "celsius",
                        Query(metric("ray_node_gpu_temperature_celsius"), "{{pod}} {{GpuIndex}}"),
                    ),
                    lines(
                        "CPU by pod",
                        "Share of the pod's CPUs, which preprocess and the engine's loop need.",
                        "percent",
                        Query(metric("ray_node_cpu_utilization"), "{{pod}}"),
                        width=8,
                        maximum=100,
                    ),
                    lines(
                        "Memory by pod",
                        "Share of the pod's memory limit in use, object store included. At 100 % the pod is killed.",
                        "percentunit",
                        Query(f"{metric('ray_node_mem_used')} / {metric('ray_node_mem_total')}", "{{pod}}"),
                        width=8,
                        maximum=1,
                    ),
                    lines(
                        "Round of Serve's controller",
                        "Time in which the controller on the head checks and scales all replicas once. Above a second "
                        "it is late.",
                        "s",
                        Query(f"max({metric('ray_serve_controller_control_loop_duration_s')})", "round"),
                    ),
                ],
            ),
        ],
    )
