"""A profile as people read it in a terminal."""

from __future__ import annotations

from mmx.benchmarks.profiling.layers import Layer
from mmx.benchmarks.profiling.profile import Profile
from mmx.view.terminal import text_table

NAME_WIDTH = 58


def describe_profile(profile: Profile, top: int) -> str:
    """Header, a table of parts, a table of the ``top`` layers, and what it comes to."""
    sizes = ", ".join(f"{count} {what}" for what, count in profile.sizes.items())
    roof, total = profile.roof, profile.layer_seconds
    lines = [
        f"{profile.system} on {profile.backend} {profile.precision}, {profile.threads} thread(s); "
        f"a synthetic utterance: {sizes}",
        *profile.environment.lines(),
        f"one run: {profile.wall.p50:.1f} ms (median of {profile.wall.count}); with the profiler, layers add up to "
        f"{total * 1e3:.1f} ms",
        f"this machine: {roof.gflops:.0f} GFLOP/s and {roof.gbytes:.0f} GB/s, in a large matrix product of this engine "
        "and a large copy, or in a layer where that was faster",
        "",
        text_table(
            ("part", "ms", "share", "GFLOP", "GFLOP/s", "of the machine's", "limited by"),
            [
                (
                    name,
                    f"{part.seconds * 1e3:.2f}",
                    f"{part.seconds / total:.0%}",
                    f"{part.gflop:.2f}",
                    f"{part.gflops:.0f}",
                    f"{part.gflops / roof.gflops:.0%}",
                    ", ".join(f"{kind} {share:.0%}" for kind, share in part.bound_share.items() if share >= 0.005),
                )
                for name, part in profile.parts.items()
            ],
        ),
        "",
        text_table(
            ("layer", "kind", "part", "ms", "share", "GFLOP/s", "of its roof", "limited by"),
            [_row(layer, profile) for layer in profile.top(top)],
        ),
        "",
        _verdict(profile),
    ]
    return "\n".join(lines)


def _row(layer: Layer, profile: Profile) -> tuple[str, ...]:
    roof = profile.roof
    name = layer.name if len(layer.name) <= NAME_WIDTH else f"...{layer.name[3 - NAME_WIDTH :]}"
    return (
        name,
        layer.kind,
        layer.tower,
        f"{layer.seconds * 1e3:.2f}",
        f"{layer.seconds / profile.layer_seconds:.1%}",
        f"{layer.flops / layer.seconds / 1e9:.0f}" if layer.flops else "-",
        f"{roof.share(layer):.0%}",
        roof.bound(layer),
    )


def _verdict(profile: Profile) -> str:
    total = profile.layer_seconds
    by_kind = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
    for layer in profile.layers:
        by_kind[profile.roof.bound(layer)] += layer.seconds / total
    flops = sum(layer.flops for layer in profile.layers)
    floor = sum(profile.roof.seconds(layer) for layer in profile.layers)
    return (
        f"all: {flops / 1e9:.1f} GFLOP at {flops / total / 1e9:.0f} GFLOP/s. {by_kind['compute']:.0%} of the time is "
        f"in compute-bound layers, {by_kind['memory']:.0%} in memory-bound ones, {by_kind['overhead']:.0%} in layers "
        f"far from either limit. With every layer at its limit, a run would take {floor * 1e3:.1f} ms."
    )
