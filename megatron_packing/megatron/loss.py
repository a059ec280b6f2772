"""The loss of a packed row."""

from __future__ import annotations

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from torch import Tensor


def loss_func(
    loss_mask: Tensor, output: Tensor, *, check_for_nan: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the losses of the trained tokens.

    With ``calculate_per_token_loss`` Megatron divides the gradient by the number of trained tokens
    of the whole global batch, so every trained token weighs the same however rows are filled.

    Args:
        loss_mask: ``(1, sequence_length)``, 1 where the label is trained.
        output: ``(1, sequence_length)``, the losses of the model.
        check_for_nan: Stop on a loss that is not finite (Megatron's --check-for-nan-in-loss).

    Returns:
        The sum, the number of trained tokens (int32), and ``{"lm loss": [sum, number]}`` which
        Megatron sums over ranks and divides for its log.
    """
    losses = output.view(-1).float()
    mask = loss_mask.view(-1).float()
    loss = torch.sum(losses * mask)
    num_tokens = mask.sum().detach().to(torch.int)
    if check_for_nan:
        for rejected, name in ((torch.isnan, "NaN"), (torch.isinf, "Inf")):
            get_rerun_state_machine().validate_result(
                result=loss,
                rejection_func=rejected,
                message=f"found {name} in local forward loss calculation",
                tolerance=0.0,
                fatal=True,
            )
    return loss, num_tokens, {"lm loss": torch.stack([loss.detach(), num_tokens.float()])}
