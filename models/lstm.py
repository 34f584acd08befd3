"""A bidirectional LSTM that knows each sample's length, under ``nn.LSTM``'s names.

In PyTorch it runs packed sequences. In an ONNX graph it is the one LSTM operator with ``sequence_lens``, whose backward
direction starts at each sample's own last row, as the packed one does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FLOAT = 1  # onnx.TensorProto.FLOAT


class BiLstm(nn.LSTM):
    """One layer, both directions, hidden size = feature size."""

    def __init__(self, features: int) -> None:
        super().__init__(features, features, batch_first=True, bidirectional=True)

    def final_states(self, x: Tensor, length: Tensor) -> Tensor:
        """Last forward state and last backward state (at the first row): [batch, 2 * features].

        Args:
            x: [batch, length, features]. length: int64 [batch], 1 or more.
        """
        if torch.compiler.is_exporting():
            return self._onnx(x, length, "bidirectional", ("", "_reverse"))
        return self._packed(x, length)

    def last_output(self, x: Tensor, length: Tensor, last: Tensor) -> Tensor:
        """The output at the last row, where the backward direction has read that row alone: [batch, 2 * features].

        Args:
            x, length: as for ``final_states``. last: each sample's last row, [batch, features].
        """
        if torch.compiler.is_exporting():
            forward = self._onnx(x, length, "forward", ("",))
        else:
            forward = self._packed(x, length)[:, : self.hidden_size]
        bias = self._weight("bias_ih_l0_reverse") + self._weight("bias_hh_l0_reverse")
        gates = nn.functional.linear(last, self._weight("weight_ih_l0_reverse"), bias)
        gate, _, cell, out = gates.chunk(4, dim=-1)  # the forget gate meets a state of zero
        return torch.cat([forward, out.sigmoid() * (gate.sigmoid() * cell.tanh()).tanh()], dim=-1)

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name)
        return weight

    def _packed(self, x: Tensor, length: Tensor) -> Tensor:
        if x.is_meta:  # shapes alone, as when multiply-accumulates are counted: every row is real
            _, (states, _) = super().forward(x)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(x, length.cpu(), batch_first=True, enforce_sorted=False)
            _, (states, _) = super().forward(packed)
        return states.transpose(0, 1).flatten(1)

    def _onnx(self, x: Tensor, length: Tensor, direction: str, suffixes: tuple[str, ...]) -> Tensor:
        """The ONNX operator's final states: [batch, directions * features]."""
        size, count = self.hidden_size, len(suffixes)
        # PyTorch stacks the gates as input, forget, cell, output; ONNX as input, output, forget, cell.
        order = torch.arange(4 * size).view(4, size)[[0, 3, 1, 2]].flatten()

        def stacked(name: str) -> Tensor:
            return torch.stack([self._weight(f"{name}_l0{suffix}").index_select(0, order) for suffix in suffixes])

        bias = torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1)
        batch, steps = x.shape[0], x.shape[1]
        states = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            [x.transpose(0, 1), stacked("weight_ih"), stacked("weight_hh"), bias, length.to(torch.int32)],
            {"hidden_size": size, "direction": direction},
            dtypes=[_FLOAT] * 3,
            shapes=[(steps, count, batch, size), (count, batch, size), (count, batch, size)],
        )[1]
        return states.transpose(0, 1).flatten(1)
