"""Decoded frames -> RGB as a viewer sees them: turned, mirrored, and HDR brought to the range of other video."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from numpy.typing import NDArray

HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ, HLG
TO_SDR = "out_transfer=bt709:out_primaries=bt709:intent=relative_colorimetric"


def upright_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as uint8 RGB [height, width, 3], turned and mirrored as its display matrix says.

    The matrix maps stored x and y to shown ones; of any but the eight orientations the nearest is taken.
    """
    rgb: NDArray[Any] = frame.to_ndarray(format="rgb24")
    a, b, c, d = _display_matrix(frame)
    if abs(a) + abs(d) < abs(b) + abs(c):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def is_hdr(frame: VideoFrame) -> bool:
    """Whether the frame is PQ or HLG, the two transfer functions of HDR video."""
    return frame.color_trc in HDR_TRANSFERS


class ToneMap:
    """HDR frames -> SDR frames (BT.709), by FFmpeg's scale filter; what is brighter than diffuse white is clipped."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._key: tuple[Any, ...] = ()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        key = (frame.width, frame.height, frame.format.name, frame.color_trc, frame.colorspace, frame.color_range)
        if self._graph is None or key != self._key:
            self._graph, self._key = _graph(frame), key
        self._graph.push(frame)
        mapped = self._graph.pull()
        assert isinstance(mapped, VideoFrame)
        return mapped


def _graph(frame: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("scale", TO_SDR), graph.add("format", "rgb24"), graph.add("buffersink"))
    graph.configure()
    return graph


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): a frame's x' = a x + c y and y' = b x + d y, in 16.16 fixed point; the identity without one."""
    # Not frame.side_data: frame and container would hold each other, and pictures pile up until the garbage collector
    # comes, which counts objects and not their megabytes.
    side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]  # (its stub lacks the argument)
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None or matrix.buffer_size < 36:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    return a, b, c, d
