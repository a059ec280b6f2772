# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from megatron_packing.errors import InputError
from megatron_packing.flops.models import MODELS
from megatron_packing.planning.rows import Rows
from megatron_packing.simulate.choose import choose_costs
from megatron_packing.simulate.costs import Costs
from megatron_packing.simulate.epoch import predict_epoch
from megatron_packing.simulate.hardware import DEVICES
from megatron_packing.simulate.layout import Layout

TRANSFORMERS = [name for name, model in MODELS.items() if not model.hybrid_layer_pattern]


def chosen(model="8b", gpus=64, row=8192, batch=128, **given):
    return choose_costs(
        MODELS[model],
        DEVICES["h100"],
        gpus=gpus,
        sequence_length=row,
        global_batch_size=batch,
        **given,
    )


@pytest.mark.parametrize("model", TRANSFORMERS)
@pytest.mark.parametrize("row", [4096, 32_768, 131_072])
@pytest.mark.parametrize("gpus", [1024, 4096])
def test_the_layout_fits_uses_all_gpus_and_shares_the_batch(model, row, gpus):
    costs = chosen(model, gpus, row)
    assert costs.fits(row)
    assert costs.layout.gpus == gpus
    assert 128 % costs.layout.data == 0


def test_no_other_layout_that_fits_has_a_much_shorter_step():
    row, batch = 32_768, 128
    one = np.full(batch, row)
    rows = Rows(
        positions=one, squares=one**2 // 4, real_positions=one, documents=np.ones(batch, int)
    )

    def seconds(costs):
        epoch = predict_epoch(
            "", rows, costs, global_batch_size=batch, most_steps=1, seed=0, dealing="random"
        )
        return epoch.prediction.step_seconds

    taken = seconds(chosen(row=row))
    others = []
    for tensor in (1, 2, 4, 8):
        for context in (1, 2, 4):
            for pipeline in (1, 2):
                for recompute in (False, True):
                    sizes = {"tensor": tensor, "context": context, "pipeline": pipeline}
                    layout = Layout.of_gpus(64, **sizes)
                    costs = Costs(
                        model=MODELS["8b"],
                        layout=layout,
                        device=DEVICES["h100"],
                        recompute=recompute,
                    )
                    if costs.fits(row):
                        others.append(seconds(costs))
    assert len(others) > 10
    assert taken < 1.05 * min(others)


def test_what_is_given_is_kept_and_what_cannot_be_is_refused():
    costs = chosen(tensor=4, pipeline=2, virtual=2, recompute=True)
    assert costs.layout == Layout(data=8, tensor=4, pipeline=2, virtual=2)
    assert costs.recompute
    with pytest.raises(InputError, match="12 GPUs are no multiple of 8"):
        chosen(gpus=12, tensor=8, pipeline=1, context=1)
    with pytest.raises(InputError, match=r"needs about .* GB on a GPU in the layout TP 2, DP 32"):
        chosen("405b", tensor=2, pipeline=1, context=1)
    with pytest.raises(InputError, match="about 919 GB on a GPU in the layout TP 8, the least"):
        chosen("405b", gpus=8)
