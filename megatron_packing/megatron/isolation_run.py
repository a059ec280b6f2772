# SPDX-License-Identifier: Apache-2.0
"""Runs the rows of the packing check through the run's own schedule, and compares them."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker
from megatron.core.utils import get_model_config
from torch import Tensor

from megatron_packing.isolation.comparison import Comparison, largest, root_of_mean
from megatron_packing.megatron.device import own_device
from megatron_packing.megatron.isolation_recorder import Recorder, Sign
from megatron_packing.megatron.isolation_rows import (
    CheckRow,
    RowLayout,
    Sample,
    iterate,
    rows_of_check,
    train_only,
)
from megatron_packing.megatron.isolation_trace import Buffers
from megatron_packing.thd.context_parallel import partition_indices

ForwardStep = Callable[..., tuple[Any, Callable[..., Any]]]


@dataclass(frozen=True, slots=True)
class LossReport:
    """What the loss function returned for the real row, over the ranks that share it."""

    has_denominator: bool
    loss: float
    expected_loss: float
    denominator: float
    expected_denominator: float


@dataclass(slots=True)
class Findings:
    """Everything that the check saw; equal on all ranks."""

    layout: RowLayout
    signs: Tensor
    """float32, ``(slots, len(Sign))``."""
    typical_loss: float
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    """By row: "again", "replaced", "padding", "alone 2"; "gradient 0" and "gradient 1" for the
    losses of the documents of ``RowLayout.alternate``."""
    loss: LossReport | None = None


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """What the check runs."""

    forward_step: ForwardStep
    model: list[Any]
    args: Namespace
    """Megatron's arguments; of another trainer, what stands for those that are read here."""
    schedule: dict[str, Any]
    """Further arguments of Megatron's schedule."""
    sample: Sample | None
    """The real row; None on ranks that do not read."""
    layout: RowLayout
    restarts: bool
    """Whether positions restart in each document."""
    present: Callable[[Sample], Sample] = dict
    """Makes of a sample what the forward step reads."""


def run_check(run: CheckedRun, recorder: Recorder, buffers: Buffers) -> Findings | None:
    """Run the rows forward, and the losses of every second document backward.

    Args:
        run: What runs.
        recorder: Watches the model.
        buffers: Of the model.

    Returns:
        What it saw; None, on all ranks, if the forward step gives no loss for each position.
    """
    rows = rows_of_check(run.layout, restarts=run.restarts)
    losses = _Losses(recorder)
    with torch.no_grad():
        _run_schedule(run, recorder, rows, losses, goes_back=False)
    has_other_output = torch.tensor([float(losses.has_other_output)])
    _take_maximum([has_other_output])
    if has_other_output.item():
        return None
    goes_back = not getattr(run.args, "use_megatron_fsdp", False)
    sources = run.layout.alternate if goes_back else ()
    for number, segments in enumerate(sources):
        buffers.restore()
        losses.trained = trained = run.layout.positions_of(segments)
        # The model itself adds losses of multi-token prediction, by the weights that it gets.
        row = CheckRow(
            f"gradient {number}", run.layout, functools.partial(train_only, trained=trained)
        )
        _run_schedule(run, recorder, [row], losses, goes_back=True)
    if goes_back and run.args.num_experts is not None:
        _compare_balancing(run, recorder, rows, losses, buffers)
    return _gather(run, recorder, rows, sources, losses)


class _Losses:
    """Takes the place of the loss function, and records."""

    def __init__(self, recorder: Recorder) -> None:
        self.trained: Tensor | None = None
        """bool, ``(positions of the row,)``: whose losses go backward; None: nobody's."""
        self.returned: tuple[float, float, float, float] | None = None
        """For the real row: loss, expected loss, denominator, expected denominator."""
        self.has_denominator = True
        self.has_other_output = False
        """Whether the model's output is not a loss for each position."""
        self._recorder = recorder

    def __call__(
        self, row: CheckRow, sample: Sample | None, own: Callable[..., Any], output: Any
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        held = row.layout.held()
        if not isinstance(output, Tensor) or output.numel() != len(held):
            self.has_other_output = True
            nothing = torch.zeros((), device=own_device())
            return nothing, torch.ones((), dtype=torch.int, device=nothing.device), {}
        losses = output.float().flatten()
        self._recorder.keep_losses(losses)
        if row.name == "real":
            self._keep_returned(sample, own, output, losses)
        if self.trained is not None:
            losses = losses * self.trained[held].to(losses.device)
        return losses.sum(), torch.ones((), dtype=torch.int, device=losses.device), {}

    def _keep_returned(
        self, sample: Sample | None, own: Callable[..., Any], output: Any, losses: Tensor
    ) -> None:
        found = own(output)
        self.has_denominator = len(found) == 3
        if sample is None or "loss_mask" not in sample or not self.has_denominator:
            return
        held = RowLayout.of(sample).held()
        weights = sample["loss_mask"][held].to(losses.device)
        is_counted = parallel_state.get_context_parallel_rank() == 0
        self.returned = (
            float(found[0]),
            float((losses * weights).sum()),
            float(found[1]),
            float(sample["denominator"]) * is_counted,
        )


def _run_schedule(
    run: CheckedRun,
    recorder: Recorder,
    rows: Sequence[CheckRow],
    losses: _Losses,
    *,
    goes_back: bool,
) -> None:
    """Run rows as the micro-batches of a step, by Megatron's own schedule."""
    config = get_model_config(run.model[0])
    group = config.microbatch_group_size_per_vp_stage if len(run.model) > 1 else 1
    rows = list(rows)
    rows += [rows[-1]] * (-len(rows) % (group or 1))  # virtual stages take groups
    samples = None if run.sample is None else [row.make(run.sample) for row in rows]
    counts: dict[int, int] = {}

    def step(data_iterator: Iterator[Sample] | None, model: Any, *more: Any) -> tuple[Any, Any]:
        number = counts[id(model)] = counts.get(id(model), -1) + 1
        row, sample = rows[number], None if samples is None else samples[number]
        recorder.begin(row.name, row.layout, sample, goes_back=goes_back)
        output, own = run.forward_step(data_iterator, model, *more)
        return output, lambda result: losses(row, sample, own, result)

    iterators = [None if samples is None else iterate(map(run.present, samples)) for _ in run.model]
    get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=run.model if len(run.model) > 1 else run.model[0],
        num_microbatches=len(rows),
        seq_length=run.args.seq_length,
        micro_batch_size=run.args.micro_batch_size,
        decoder_seq_length=run.args.decoder_seq_length,
        forward_only=not goes_back,
        **run.schedule,
    )


def _row_of(rows: Sequence[CheckRow], kind: str) -> CheckRow:
    """Return the first row of a kind; the first that is alone is the first document's."""
    return next(row for row in rows if row.name.startswith(kind))


def _compare_balancing(
    run: CheckedRun,
    recorder: Recorder,
    rows: Sequence[CheckRow],
    losses: _Losses,
    buffers: Buffers,
) -> None:
    """Mark layers whose balancing losses depend on the tokens of padding.

    They are computed only where gradients are.
    """
    losses.trained = torch.zeros(sum(run.layout.lengths), dtype=torch.bool)
    recorded = []
    for row in (_row_of(rows, "alone"), _row_of(rows, "padding")):
        get_moe_metrics_tracker().clear()
        buffers.restore()
        _run_schedule(run, recorder, [row], losses, goes_back=True)
        metrics = get_moe_metrics_tracker().metrics
        recorded.append({name: entry.values.clone() for name, entry in metrics.items()})
    rough = 1e-4 if recorder.config.params_dtype is torch.float32 else 1e-2
    for name, values in recorded[0].items():
        differs = (values - recorded[1][name]).abs() > rough * values.abs()
        for layer in torch.nonzero(differs).flatten().tolist():
            recorder.signs[layer + 1, Sign.COUNTS_PADDING] = 1.0


def _gather(
    run: CheckedRun,
    recorder: Recorder,
    rows: Sequence[CheckRow],
    sources: Sequence[Sequence[int]],
    losses: _Losses,
) -> Findings:
    """Compare, and give every rank what all ranks saw."""
    cp = parallel_state.get_context_parallel_world_size()
    real = rows[0]
    of_real = _outputs(recorder, real)
    sizes = recorder.num_slots, len(run.layout.lengths)
    found: dict[str, Comparison] = {}
    for row in rows[1:]:
        reference = of_real
        if row.name == "padding":  # has the same padding otherwise
            reference = _outputs(recorder, _row_of(rows, "alone"))
        found[row.name] = Comparison(torch.zeros(sizes), torch.zeros(sizes[0], cp))
        _compare(run.layout, row, reference, _outputs(recorder, row), found[row.name])
    for number, segments in enumerate(sources):
        name = f"gradient {number}"
        found[name] = Comparison(torch.zeros(sizes), torch.zeros(sizes[0], cp))
        gradients = {
            slot: _gather_positions(gradient, run.layout)
            for (row, slot), gradient in sorted(recorder.gradients.items())
            if row == name
        }
        _weigh_gradients(run.layout, segments, gradients, found[name])
    typical = torch.zeros(1)
    if "real" in recorder.losses:
        typical[0] = recorder.losses["real"].abs().mean()
    returned = _sum_over_row(losses)
    tensors = [recorder.signs, typical, returned]
    tensors += [part for one in found.values() for part in (one.moved, one.ranks)]
    _take_maximum(tensors)
    findings = Findings(run.layout, recorder.signs, float(typical), found)
    known, has_denominator, *values = returned.tolist()
    if known:
        findings.loss = LossReport(bool(has_denominator), *values)
    return findings


def _outputs(recorder: Recorder, row: CheckRow) -> dict[int, Tensor]:
    """Return the outputs of the whole row on this pipeline stage, by slot, and its losses."""
    gathered = {
        slot: _gather_positions(output, row.layout)
        for (name, slot), output in sorted(recorder.outputs.items())
        if name == row.name
    }
    if row.name in recorder.losses:
        gathered[recorder.loss_slot] = _gather_positions(recorder.losses[row.name], row.layout)
    return gathered


def _gather_positions(local: Tensor, layout: RowLayout) -> Tensor:
    """Gather ``(local positions, ...)`` of the ranks that share a row, in the row's order.

    Under sequence parallelism tensor-parallel ranks hold parts; else all hold the same.
    """
    held = layout.held()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    if len(local) * ranks == len(held):
        held = held.chunk(ranks)[parallel_state.get_tensor_model_parallel_rank()]
    group = parallel_state.get_tensor_and_context_parallel_group()
    row = torch.zeros(sum(layout.lengths), *local.shape[1:])
    if group.size() == 1:
        row[held] = local.cpu()
        return row
    local, held = local.contiguous(), held.to(local.device)
    parts = [torch.empty_like(local) for _ in range(group.size())]
    places = [torch.empty_like(held) for _ in range(group.size())]
    torch.distributed.all_gather(parts, local, group=group)
    torch.distributed.all_gather(places, held, group=group)
    for place, part in zip(places, parts, strict=True):
        row[place.cpu()] = part.cpu()
    return row


def _compare(
    layout: RowLayout,
    row: CheckRow,
    reference: dict[int, Tensor],
    outputs: dict[int, Tensor],
    found: Comparison,
) -> None:
    """Fill in how far the documents that should not move did."""
    owners = _owners(layout)
    loss_slot = found.moved.shape[0] - 1
    if row.name in ("again", "replaced"):
        kept = layout.documents if row.name == "again" else layout.alternate[1]
        pairs = [(segment, layout.span(segment), layout.span(segment)) for segment in kept]
    elif row.name == "padding":
        pairs = [(layout.documents[0], row.layout.span(0), row.layout.span(0))]
    else:
        segment = int(row.name.split()[1])
        pairs = [(segment, layout.span(segment), row.layout.span(0))]
    of_all = root_of_mean if row.name.startswith("alone") else largest
    for slot, output in outputs.items():
        for segment, at, now_at in pairs:
            moved = (output[now_at] - reference[slot][at]).abs()
            if slot != loss_slot:
                moved = moved.amax(1) / reference[slot][at].abs().max().clamp(min=1e-30)
            _fill_in(found, slot, segment, moved, owners[layout.span(segment)], of_all)


def _weigh_gradients(
    layout: RowLayout, sources: Sequence[int], gradients: dict[int, Tensor], found: Comparison
) -> None:
    """Fill in the gradients that other documents got, as shares of the largest of their own."""
    owners = _owners(layout)
    for slot, gradient in gradients.items():
        own = gradient[layout.positions_of(sources)].max().clamp(min=1e-30)
        for segment in layout.documents:
            if segment in sources:
                continue
            share = gradient[layout.span(segment)] / own
            _fill_in(found, slot, segment, share, owners[layout.span(segment)], largest)


def _fill_in(
    found: Comparison,
    slot: int,
    segment: int,
    moved: Tensor,
    owners: Tensor,
    of_all: Callable[[Tensor], Tensor],
) -> None:
    """Take how far the positions of a document moved into a comparison."""
    found.moved[slot, segment] = of_all(moved)
    for rank in owners.unique().tolist():
        found.ranks[slot, rank] = max(found.ranks[slot, rank], of_all(moved[owners == rank]))


def _owners(layout: RowLayout) -> Tensor:
    """Return int64, ``(positions,)``: the context-parallel rank that holds each position."""
    size = parallel_state.get_context_parallel_world_size()
    offsets = torch.tensor(layout.offsets)
    owners = torch.zeros(int(offsets[-1]), dtype=torch.int64)
    for rank in range(size):
        owners[partition_indices(offsets, size, rank)] = rank
    return owners


def _sum_over_row(losses: _Losses) -> Tensor:
    """Return what the loss function gave: known, has a denominator, and four sums over a row.

    Only the ranks of the last stage that read know it; the others give zeros.
    """
    values = torch.zeros(6, dtype=torch.float64)
    if losses.returned is not None:
        values = torch.tensor([1.0, 1.0, *losses.returned], dtype=torch.float64)
    elif not losses.has_denominator:
        values[0] = 1.0
    group = parallel_state.get_context_parallel_group()
    if group.size() > 1:
        values = values.to(own_device())
        torch.distributed.all_reduce(values, group=group)
        values = values.cpu()
        values[:2] = values[:2].clamp(max=1)
    return values.float()


def _take_maximum(tensors: Sequence[Tensor]) -> None:
    """Give each tensor the largest values of all ranks."""
    if torch.distributed.get_world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(own_device())
    torch.distributed.all_reduce(flat, op=torch.distributed.ReduceOp.MAX)
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
