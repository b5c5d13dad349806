"""Products of few rows by columns, against torch's linear layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from descant.models.layers import few_rows
from descant.models.layers.few_rows import FewRows


@pytest.mark.parametrize("bias", [True, False])
def test_they_are_those_of_the_layer_which_stays_as_it_is(bias, monkeypatch) -> None:
    monkeypatch.setattr(few_rows, "LARGE", 0)
    torch.manual_seed(0)
    layer, other, seen = nn.Linear(24, 40, bias=bias), nn.Linear(8, 8).bfloat16(), list[int]()
    layer.register_forward_hook(lambda *_: seen.append(1))
    few = FewRows([layer, other])
    for rows in range(1, 9):
        x = torch.randn(rows, 1, 24)
        with torch.no_grad(), few.during(rows):
            assert ("forward" in vars(layer)) == (2 <= rows <= 6) and "forward" not in vars(other)
            out = layer(x)
        assert "forward" not in vars(layer) and out.is_contiguous()
        torch.testing.assert_close(out, nn.functional.linear(x, layer.weight, layer.bias))
    assert len(seen) == 8
