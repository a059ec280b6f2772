# SPDX-License-Identifier: Apache-2.0
"""Compares documents in packed rows with the same documents alone, in megatron-core's GPTModel.

Run by test_packed_equals_separate.py in processes of their own, as CUDA's stand-ins are put in
place; several processes share the rows. Prints one JSON object.

    packed_and_separate.py documents FOLDER PACKS POSITION_EMBEDDING DTYPE   each document of so
                                                                         many packs
    packed_and_separate.py rows FOLDER POSITION_EMBEDDING POSITION_IDS ALIGNMENT   documents that
                                                                         see others
    packed_and_separate.py stock FOLDER   batches by Megatron 0.19's own functions; two ranks
    packed_and_separate.py sizes FOLDER   what is said of rows of two shapes; two ranks
    packed_and_separate.py layout FOLDER NAME SIZE...   the loss of all rows under a layout
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import torch
from cpu_trainer import run_cuda_code_on_cpu

run_cuda_code_on_cpu()

from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig

from megatron_packing.errors import InputError
from megatron_packing.megatron.batch import get_batch, is_tokens_stage, run_model
from megatron_packing.megatron.layer_spec import packed_layer_spec
from megatron_packing.megatron.loss import loss_func
from tests.conftest import chat_like_lengths, write_corpus
from tests.megatron.test_dataset import ROW, build


def make_model(position_embedding: str = "rope", num_layers: int = 2, **layout) -> GPTModel:
    config = TransformerConfig(
        num_layers=num_layers,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=128,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        apply_rope_fusion=False,
        transformer_impl="local",
        calculate_per_token_loss=True,
        pipeline_dtype=torch.float32,
        batch_p2p_comm=False,
        deallocate_pipeline_outputs=True,  # as the trainer: by a backward that sees the stand-ins
        **layout,
    )
    torch.default_generator.manual_seed(0)
    return GPTModel(
        config,
        packed_layer_spec(config),
        vocab_size=256,
        max_sequence_length=ROW,
        position_embedding_type=position_embedding,
        share_embeddings_and_output_weights=False,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def compare_documents(
    folder: Path, packs: str, position_embedding: str, precision: str
) -> dict[str, float]:
    """Losses and gradients of each document in its row and alone; bits of the others.

    In float64 the loss is torch's, as Megatron's is computed in float32. Gradients are those of the
    document's part of its row's mean loss.
    """
    corpus = write_corpus(folder / "corpus", chat_like_lengths(1400, longest=ROW))
    (train, _, _) = build([corpus.prefix], folder, packing_alignment=4)
    model = make_model(position_embedding).to(getattr(torch, precision))
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    result = {"packs": 0, "documents": 0, "loss": 0.0, "gradient": 0.0, "bits changed": 0}

    def losses_of(call, labels):
        if precision == "float32":
            return call(labels)[0]
        return torch.nn.functional.cross_entropy(call(None)[0], labels[0], reduction="none")

    def packed(sample):
        batch = get_batch(iter(torch.utils.data.DataLoader([sample], batch_size=1)))
        return losses_of(
            lambda labels: run_model(model, replace(batch, labels=labels)), batch.labels
        )

    def alone(tokens):
        positions = torch.arange(tokens.shape[1] - 1)[None]
        inputs = (tokens[:, :-1], positions, None)
        return losses_of(lambda labels: model(*inputs, labels=labels), tokens[:, 1:])

    for pack in range(int(packs)):
        sample = train[pack]
        segments = list(train.rows.segments(pack))
        starts = sample["cu_seqlens"].tolist()
        rows = [slice(a, a + length) for a, (_, _, length) in zip(starts, segments, strict=False)]
        losses = packed(sample)
        for here, (document, _, _) in zip(rows, segments, strict=True):
            tokens = torch.from_numpy(corpus.tokens(document).astype("int64"))[None]
            # Megatron's cross entropy overwrites what a second backward pass would need.
            pair = packed(sample)[here], alone(tokens)
            result["loss"] = max(result["loss"], difference(*([loss] for loss in pair)))
            gradients = [
                torch.autograd.grad(loss.sum() / sum(train.rows.segments(pack).lengths), parameters)
                for loss in pair
            ]
            result["gradient"] = max(result["gradient"], difference(*gradients))
            result["documents"] += 1
        # Another document in one place: the others must not notice, not by a bit.
        changed = int(torch.randint(len(rows), (1,), generator=generator))
        noise = torch.randint(256, sample["tokens"][rows[changed]].shape, generator=generator)
        noisy = {**sample, "tokens": sample["tokens"].clone()}
        noisy["tokens"][rows[changed]] = noise
        after = packed(noisy)
        for i, here in enumerate(rows):
            if i != changed:
                result["bits changed"] += int((after[here] != losses[here]).sum())
        assert not torch.equal(after[rows[changed]], losses[rows[changed]])
        result["packs"] += 1
    return result


def compare_rows(
    folder: Path, position_embedding: str, position_ids: str, alignment: str
) -> dict[str, float]:
    """Rows whose documents see each other, and the same tokens as one unpacked sequence."""
    corpus = write_corpus(folder / "corpus", chat_like_lengths(100, longest=ROW))
    settings = {
        "packing_attention": "pack",
        "packing_position_ids": position_ids,
        "packing_alignment": int(alignment),
    }
    (train, _, _) = build([corpus.prefix], folder, **settings)
    model = make_model(position_embedding)
    largest = 0.0
    for sample in torch.utils.data.DataLoader(train, batch_size=1):
        filled = int(sample["real_lengths"].sum())
        tokens, labels, positions = (
            sample[name][:, :filled] for name in ("tokens", "labels", "position_ids")
        )
        packed = run_model(model, get_batch(iter([sample])))[:, :filled]
        largest = max(
            largest, difference([packed], [model(tokens, positions, None, labels=labels)])
        )
    return {"rows": len(train), "loss": largest}


def copy_stage(model: GPTModel, weights: dict[str, torch.Tensor]) -> None:
    """Give a stage the weights of its layers in the whole model."""
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.layers."):
            place = int(name.split(".")[2])
            whole = model.decoder.layers[place].layer_number - 1
            name = name.replace(f"layers.{place}.", f"layers.{whole}.", 1)
        parameter.data.copy_(weights[name])


def train_step(folder: Path, **layout) -> dict[str, float]:
    """The loss of all rows of a corpus, by Megatron's schedules; its gradient where rows are cut.

    The first run, on one rank, leaves its gradients in the folder.
    """
    prefix = write_on_first_rank(folder / "corpus", chat_like_lengths(60, longest=ROW))
    settings = {"context_parallel_size": 2, "packing_normaliser": "sequence"}
    settings["packing_with_tokens"] = is_tokens_stage()
    (train, _, _) = build([prefix], folder, **settings)
    model = make_model(**layout)
    weights = folder / "weights.pt"
    if not layout:
        torch.save(dict(model.named_parameters()), weights)
    elif "pipeline_model_parallel_size" in layout:  # stages start from other random numbers
        copy_stage(model, torch.load(weights, weights_only=False))
    loader = iter(torch.utils.data.DataLoader(train, batch_size=1))
    sums = torch.zeros(2, dtype=torch.float64)

    def forward_step(iterator, model):
        batch = get_batch(iterator)

        def loss_of(output):
            loss, denominator, report = loss_func(batch.loss_mask, batch.denominator, output)
            sums.add_(report["lm loss"].double())
            return loss, denominator, report

        return run_model(model, batch), loss_of

    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=loader,
        model=model,
        num_microbatches=len(train),
        seq_length=ROW,
        micro_batch_size=1,
        forward_only=False,
    )
    torch.distributed.all_reduce(sums)
    loss = (sums[0] / sums[1]).item()
    expected = folder / "gradients.pt"
    result = {"rows": len(train), "loss": loss}
    if not layout:
        torch.save([parameter.grad for parameter in model.parameters()], expected)
    elif layout.keys() == {"context_parallel_size"}:
        gradients = [parameter.grad for parameter in model.parameters()]
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
        total = sums[1].item()
        alone = [gradient / total for gradient in torch.load(expected)]
        result["gradient"] = difference([gradient / total for gradient in gradients], alone)
    return result


def write_on_first_rank(prefix: Path, lengths: Sequence[int]) -> Path:
    """Write a corpus that all ranks read."""
    if torch.distributed.get_rank() == 0:
        write_corpus(prefix, lengths)
    torch.distributed.barrier()
    return prefix


def compare_with_stock_batches(folder: Path) -> dict[str, float]:
    """What pretrain_gpt.py --sft of Megatron 0.19 makes of a sample, and what this project does.

    Its get_batch calls these three functions in this order, and its forward_step the model.
    """
    from megatron.core.utils import (
        flatten_batch_for_packed_sequences,
        get_batch_on_this_cp_rank,
        get_batch_on_this_tp_rank,
    )

    prefix = write_on_first_rank(folder / "corpus", chat_like_lengths(60, longest=ROW))
    (train, _, _) = build([prefix], folder)
    model = make_model(tensor_model_parallel_size=2)
    tensor_rank = parallel_state.get_tensor_model_parallel_rank()
    largest = 0.0
    for sample in torch.utils.data.DataLoader(train, batch_size=1):
        keys = ("attention_mask", "cu_seqlens", "cu_seqlens_padded", "hybrid_cp_group", "labels")
        keys += ("local_cp_size", "loss_mask", "max_seqlen", "position_ids", "tokens")
        stock = get_batch_on_this_tp_rank(
            {key: sample.get(key) for key in keys} if tensor_rank == 0 else {},
            broadcast_src_rank=parallel_state.get_tensor_model_parallel_src_rank(),
            broadcast_group=parallel_state.get_tensor_model_parallel_group(),
            has_cu_seqlens=True,
            is_hybrid_cp=False,
            create_attention_mask_in_dataloader=False,
            cp_size=1,
            tp_rank=tensor_rank,
            micro_batch_size=1,
            seq_length=ROW,
            mtp_on_this_rank=False,
        )
        stock = flatten_batch_for_packed_sequences(stock)
        group = parallel_state.get_context_parallel_group()
        stock = get_batch_on_this_cp_rank(stock, is_hybrid_cp=False, cp_group=group)
        ours = get_batch(iter([sample]))
        for name in ("tokens", "labels", "loss_mask", "position_ids"):
            assert torch.equal(stock[name], getattr(ours, name)), name
        cu_seqlens = stock["cu_seqlens"].squeeze(0)
        assert torch.equal(cu_seqlens, ours.packed_seq_params.cu_seqlens_q.unique_consecutive())
        assert stock["cu_seqlens_padded"] is None
        length = int(stock["max_seqlen"].item())
        packed = replace(
            ours.packed_seq_params,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=length,
            max_seqlen_kv=length,
        )
        theirs = model(
            stock["tokens"],
            stock["position_ids"],
            None,
            labels=stock["labels"],
            loss_mask=stock["loss_mask"],
            packed_seq_params=packed,
        )
        largest = max(largest, difference([theirs], [run_model(model, ours)]))
    return {"rows": len(train), "loss": largest}


def read_two_shapes(folder: Path) -> dict[str, str]:
    """What the reading rank says of a row that another configuration made."""
    samples = []
    for name, longest in (("first", ROW), ("second", ROW // 8)):
        prefix = write_on_first_rank(folder / name, chat_like_lengths(30, longest=longest))
        (train, _, _) = build([prefix], folder)
        samples += torch.utils.data.DataLoader(torch.utils.data.Subset(train, [0]))
    get_batch(iter(samples[:1]))
    if os.environ["RANK"] == "0":
        try:
            get_batch(iter(samples[1:]))
        except InputError as error:
            return {"error": f"{type(error).__name__}: {error}"}
    return {"error": ""}


def main() -> None:
    verb, folder, *rest = sys.argv[1:]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    layout = dict(zip(rest[::2], map(int, rest[1::2]), strict=True)) if verb == "layout" else {}
    if layout.pop("sequence_parallel", 0):
        layout["sequence_parallel"] = True
    store = torch.distributed.FileStore(f"{folder}/store{'-'.join(rest)}", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    if verb in ("stock", "sizes"):
        layout["tensor_model_parallel_size"] = 2
    sizes = {name: size for name, size in layout.items() if name != "sequence_parallel"}
    parallel_state.initialize_model_parallel(**sizes)
    model_parallel_cuda_manual_seed(1)
    if verb == "documents":
        result = compare_documents(Path(folder), *rest)
    elif verb == "rows":
        result = compare_rows(Path(folder), *rest)
    elif verb == "sizes":
        result = read_two_shapes(Path(folder))
    elif verb == "stock":
        result = compare_with_stock_batches(Path(folder))
    else:
        result = train_step(Path(folder), **layout)
    if rank == 0:
        sys.stdout.write(json.dumps(result) + "\n")
    torch.distributed.barrier()  # a rank that ends while others still talk to it may be aborted
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
