"""The board Engine: what the model's replicas do with their GPUs, and what they are short of.

Throughput, room, time by stage, memory, machine: in this order one finds out why the first token is late.
"""

from __future__ import annotations

from boards_panels import Panel, Query, board, lines, number, variable
from boards_queries import metric, quantile, rate, total

from serve_app import metrics

REPLICA = 'replica=~"$replica"'
ENGINE_STAGES = ("queue", "encode", "prefill", "decode_step")
PICTURE_STAGES = ("fetch", "decode", "resize", "tokenize")


def _share(used: metrics.Metric, all_of_it: metrics.Metric) -> str:
    return f"{total(used, REPLICA)} / {total(all_of_it, REPLICA)}"


def _hit_share() -> str:
    hits, misses = rate(metrics.FEATURE_CACHE_HITS, REPLICA), rate(metrics.FEATURE_CACHE_MISSES, REPLICA)
    return f"({hits} or vector(0)) / ((({hits} or vector(0)) + ({misses} or vector(0))) > 0)"


def _fullest_gpu() -> str:
    return f"max({metric(metrics.VRAM_DEVICE_USED, REPLICA)} / ({metric(metrics.VRAM_DEVICE_TOTAL, REPLICA)} > 0))"


def _stages(title: str, description: str, stages: tuple[str, ...], width: int) -> Panel:
    chosen = f'stage=~"{"|".join(stages)}"'
    return lines(
        title,
        description,
        "s",
        Query(quantile(0.5, metrics.STAGE_SECONDS, chosen, by="stage"), "{{stage}} p50", dashed=True),
        Query(quantile(0.95, metrics.STAGE_SECONDS, chosen, by="stage"), "{{stage}} p95"),
        width=width,
    )


def engine() -> str:
    """The board as JSON."""
    return board(
        "glm-engine",
        "GLM Vision Serve / Engine",
        "What the model's replicas do with their GPUs: throughput, room, time by stage, memory, machine.",
        [
            variable(
                "replica",
                "Replica",
                f'ray_{metrics.SLOTS.name}{{namespace="$namespace", release="$release", ray_io_cluster=~"$cluster"}}',
                "replica",
                every=True,
            )
        ],
        [
            (
                "How busy is it?",
                [
                    number(
                        "Tokens out",
                        "Answer tokens drawn a second, of all replicas.",
                        "short",
                        rate(metrics.OUTPUT_TOKENS, REPLICA),
                    ),
                    number(
                        "Batch, p50",
                        "Sequences in one decode step. Larger batches are more tokens for the same time.",
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
                        "The fullest device's share in use, by all processes.",
                        "percentunit",
                        _fullest_gpu(),
                        (0.9, "orange"),
                        (0.95, "red"),
                        none="no GPU",
                    ),
                    number(
                        "GPU busy",
                        "Mean utilisation of the devices.",
                        "percent",
                        f"avg({metric('ray_node_gpus_utilization')})",
                        none="no GPU",
                    ),
                    number(
                        "Out of memory",
                        "Out-of-memory errors caught since the replicas' nodes started.",
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
                        "Tokens a second",
                        "Prompt tokens taken in, those of them that stand for pictures, and answer tokens drawn.",
                        "short",
                        Query(rate(metrics.PROMPT_TOKENS, REPLICA), "prompt"),
                        Query(rate(metrics.IMAGE_TOKENS, REPLICA), "of it, pictures"),
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
                        "A replica that is far below the others is slow, or gets less to do.",
                        "short",
                        Query(rate(metrics.OUTPUT_TOKENS, REPLICA, by="replica"), "{{replica}}"),
                        stacked=True,
                    ),
                ],
            ),
            (
                "Room",
                [
                    lines(
                        "Slots",
                        "Slots that hold a sequence, by replica, and how many there are in all (dashed).",
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
                        "Tokens held, of those that the cache has room for. Slots full and this low: sequences are "
                        "much shorter than model.context_tokens, and more slots of less would fit.",
                        "percentunit",
                        Query(_share(metrics.KV_TOKENS_USED, metrics.KV_TOKENS), "in use"),
                        width=6,
                        maximum=1,
                    ),
                    lines(
                        "Pictures known already",
                        "Share of pictures whose features were still in the cache, so that encoding them was saved.",
                        "percentunit",
                        Query(_hit_share(), "known"),
                        width=6,
                        maximum=1,
                    ),
                ],
            ),
            (
                "Where the time goes",
                [
                    _stages(
                        "Engine",
                        "Wait for a slot, a request's pictures encoded, one prompt chunk, one decode step of all.",
                        ENGINE_STAGES,
                        12,
                    ),
                    _stages(
                        "Preprocess",
                        "Fetch by address, decode, resize, template and tokens; CPU work, of preprocess replicas.",
                        PICTURE_STAGES,
                        12,
                    ),
                ],
            ),
            (
                "Memory",
                [
                    lines(
                        "GPU memory by replica",
                        "What tensors hold, what the allocator holds, the most that tensors ever held.",
                        "bytes",
                        Query(total(metrics.VRAM_ALLOCATED, REPLICA, by="replica"), "{{replica}} tensors"),
                        Query(total(metrics.VRAM_RESERVED, REPLICA, by="replica"), "{{replica}} allocator"),
                        Query(total(metrics.VRAM_PEAK, REPLICA, by="replica"), "{{replica}} peak", dashed=True),
                    ),
                    lines(
                        "GPU memory of the device",
                        "In use by all processes, and what the device has (dashed). More than the allocator holds: "
                        "someone else is on it.",
                        "bytes",
                        Query(total(metrics.VRAM_DEVICE_USED, REPLICA, by="replica"), "{{replica}} used"),
                        Query(
                            total(metrics.VRAM_DEVICE_TOTAL, REPLICA, by="replica"), "{{replica}} device", dashed=True
                        ),
                    ),
                    lines(
                        "Out of memory",
                        "Errors caught since the replica's node started. A request that met one was answered with an "
                        "error, or its step was done again.",
                        "short",
                        Query(f"{total(metrics.OUT_OF_MEMORY, REPLICA, by='replica')} or vector(0)", "{{replica}}"),
                    ),
                    lines(
                        "Picture features kept",
                        "Memory of the feature cache; engine.feature_cache_mib bounds it.",
                        "bytes",
                        Query(total(metrics.FEATURE_CACHE_BYTES, REPLICA, by="replica"), "{{replica}}"),
                    ),
                    lines(
                        "Memory of replicas",
                        "Resident memory of each stage's processes, by pod. A line that only rises is a leak.",
                        "bytes",
                        Query(
                            total("ray_component_rss_bytes", 'Component=~"ray::ServeReplica:.+"', by="pod, Component"),
                            "{{pod}} {{Component}}",
                        ),
                    ),
                    lines(
                        "Model load",
                        "Time that each replica took to load its model: how long scaling up lasts at least.",
                        "s",
                        Query(f"max by (replica) ({metric(metrics.MODEL_LOAD_SECONDS, REPLICA)})", "{{replica}}"),
                    ),
                ],
            ),
            (
                "Machine",
                [
                    lines(
                        "GPU busy",
                        "Share of time in which some kernel ran, by device.",
                        "percent",
                        Query(metric("ray_node_gpus_utilization"), "{{pod}} {{GpuIndex}}"),
                        maximum=100,
                    ),
                    lines(
                        "GPU power",
                        "Power drawn by each device. Busy at little power: the kernels are waiting for memory or for "
                        "the CPU.",
                        "watt",
                        Query(f"{metric('ray_node_gpu_power_milliwatts')} / 1000", "{{pod}} {{GpuIndex}}"),
                    ),
                    lines(
                        "GPU temperature",
                        "Above about 85 °C most cards slow down.",
                        "celsius",
                        Query(metric("ray_node_gpu_temperature_celsius"), "{{pod}} {{GpuIndex}}"),
                    ),
                    lines(
                        "CPU by pod",
                        "Share of the pod's CPUs. Preprocess lives on them; so does the engine's own thread.",
                        "percent",
                        Query(metric("ray_node_cpu_utilization"), "{{pod}}"),
                        width=12,
                        maximum=100,
                    ),
                    lines(
                        "Memory by pod",
                        "Memory in use of what the pod may use, object store included. At 100 % the pod is killed.",
                        "percentunit",
                        Query(f"{metric('ray_node_mem_used')} / {metric('ray_node_mem_total')}", "{{pod}}"),
                        width=12,
                        maximum=1,
                    ),
                ],
            ),
        ],
    )
