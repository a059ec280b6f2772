# SPDX-License-Identifier: Apache-2.0
"""Trains tiny models by Megatron-Bridge's own ``pretrain()`` on packs, on CPU.

    run_pretrain.py CASES.json STORE

A case is {"train": INDEX, "validation": INDEX, "folder": CHECKPOINTS, "use": {...},
"before": {PART: {...}}, "after": {PART: {...}}, "bug": NAME}: what use_packed_data is called with,
what the recipe is changed by before and after, and what is wrong with the boundaries that Bridge's
step gives. Cases run one after another, in one process a rank; ranks find each other by the file
STORE. Prints a JSON list of what came of each: the rows that were read, the losses, or the error.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable()
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from tests.bridge import source  # noqa: F401  # isort: skip  # before Megatron

os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"

import torch
import torch.multiprocessing

import tests.megatron.packed_and_separate  # noqa: F401  # first: it puts CUDA's stand-ins in place
from tests.bridge.absent import prepare_bridge

prepare_bridge()

import megatron.bridge.training.eval as eval_module
import megatron.bridge.training.gpt_step as gpt_step
import megatron.bridge.training.train as train_module
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.recipes.common import _sft_common
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.initialize import destroy_global_state
from megatron.bridge.training.pretrain import pretrain

from megatron_packing.bridge import dataset, packed_data, recipe
from megatron_packing.errors import InputError
from megatron_packing.megatron.layer_spec import packed_layer_spec

VOCABULARY = 1024
FUSED = (
    "apply_rope_fusion",
    "bias_dropout_fusion",
    "cross_entropy_loss_fusion",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "persist_layer_norm",
)


def _no_distillation(*_, **__):
    """What modelopt, which is not installed, says of a model that is not distilled."""
    return


for module in (train_module, eval_module):
    if hasattr(module, "get_tensor_shapes_adjust_fn_for_distillation"):
        module.get_tensor_shapes_adjust_fn_for_distillation = _no_distillation
# Checkpoints are written by processes, which need not import all this again.
_get_context = torch.multiprocessing.get_context
torch.multiprocessing.get_context = lambda _=None: _get_context("fork")

ROWS: dict[str, list[int]] = {}
PACKS: list[int] = []  # of the training rows
STEPS: dict[str, list[float]] = {}
_row = dataset.PackedRows.row
_log = train_module.training_log


def record_row(self, sample, **kwargs):
    ROWS.setdefault("train" if self.new_order_each_epoch else "evaluation", []).append(sample)
    if self.new_order_each_epoch and self.order is not None:
        PACKS.append(self.order.pack_at(sample))
    return _row(self, sample, **kwargs)


def record_step(*args, **kwargs):
    """Loss and gradient norm of a step: sums and counts in Bridge 0.6."""
    found = inspect.signature(_log).bind(*args, **kwargs).arguments
    losses = [value.reshape(-1) for value in found["loss_dict"].values()]
    STEPS["losses"] += [float(value[0] / value[1] if len(value) > 1 else value) for value in losses]
    STEPS["norms"].append(float(found["grad_norm"]))
    return _log(*args, **kwargs)


dataset.PackedRows.row = record_row
train_module.training_log = record_step


def tiny_recipe(folder: str):
    """Bridge's own settings for fine-tuning, with a tiny model that needs no GPU."""
    cfg = _sft_common()
    cfg.model = GPTModelProvider(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=128,
        normalization="RMSNorm",
        add_bias_linear=False,
        position_embedding_type="rope",
        seq_length=64,
        vocab_size=VOCABULARY,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        transformer_impl="local",
        transformer_layer_spec=packed_layer_spec,
        batch_p2p_comm=False,
    )
    for name in FUSED:
        setattr(cfg.model, name, False)
    cfg.model.use_cpu_initialization = True
    cfg.mixed_precision = None
    cfg.optimizer.bf16 = cfg.optimizer.fp16 = False
    cfg.optimizer.lr = 1e-3
    for part in (cfg.optimizer, cfg.ddp):
        part.use_distributed_optimizer = part.overlap_param_gather = False
    cfg.ddp.overlap_grad_reduce = False
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.vocab_size = VOCABULARY - 1
    cfg.dist.distributed_backend = "gloo"
    cfg.logger.tensorboard_dir = None
    cfg.logger.log_interval = 1
    cfg.checkpoint.save = cfg.checkpoint.load = folder
    cfg.checkpoint.save_interval = 1000
    cfg.checkpoint.async_save = False
    settings = getattr(cfg, "validation", cfg.train)
    settings.eval_iters, settings.eval_interval = 2, 2
    cfg.train.train_iters = 3
    cfg.train.global_batch_size = 4
    cfg.scheduler.lr_warmup_iters = 0
    cfg.scheduler.lr_decay_style = "constant"
    cfg.scheduler.override_opt_param_scheduler = True
    cfg.dataset.num_workers = 0
    cfg.dataset.persistent_workers = False
    return cfg


def change(cfg, parts: dict) -> None:
    for part, values in parts.items():
        for name, value in values.items():
            # Bridge 0.3 has the settings of evaluations in cfg.train.
            setattr(getattr(cfg, part, cfg.train), name, value)


@contextlib.contextmanager
def planted(bug: str | None):
    """Let Bridge's step give layers other document boundaries than the row's."""
    own = gpt_step.get_packed_seq_params

    def other(batch):
        found = own(batch)
        if bug == "none":
            return None
        for name in ("cu_seqlens_q", "cu_seqlens_kv"):
            ends = getattr(found, name).clone()
            ends[1] += 2
            setattr(found, name, ends)
        found.max_seqlen_q, found.max_seqlen_kv = found.max_seqlen_q + 2, found.max_seqlen_kv + 2
        return found

    gpt_step.get_packed_seq_params = other if bug else own
    try:
        yield
    finally:
        gpt_step.get_packed_seq_params = own


def run(case: dict) -> dict:
    ROWS.clear()
    PACKS.clear()
    STEPS.update(losses=[], norms=[])
    printed = io.StringIO()
    recipe.console.file = packed_data.console.file = printed
    try:
        cfg = tiny_recipe(case["folder"])
        change(cfg, case.get("before", {}))
        if "copy" in case:  # the folder of one checkpoint, without what lies beside it
            cfg.checkpoint.load = f"{case['folder']} copy/{Path(case['copy']).name}"
            shutil.copytree(case["copy"], cfg.checkpoint.load)
            if not hasattr(cfg, "validation"):  # Bridge 0.3 looks for what announces a checkpoint
                state = Path(cfg.checkpoint.load, "train_state.pt")
                cfg.checkpoint.load = str(state.parent.parent)
                shutil.copy(state, state.parent.with_name("latest_train_state.pt"))
        arguments = {"keep": "rows", "quiet": True, **case.get("use", {})}
        recipe.use_packed_data(cfg, train=case["train"], validation=case["validation"], **arguments)
        change(cfg, case.get("after", {}))
        with contextlib.redirect_stdout(io.StringIO()), planted(case.get("bug")):
            pretrain(cfg, forward_step)
    except (InputError, AssertionError, RuntimeError, ValueError, StopIteration) as error:
        return {"error": f"{type(error).__name__}: {error}", "rows": ROWS.get("train", [])}
    return {
        "rows": list(ROWS.get("train", [])),
        "packs": list(PACKS),
        "evaluated": list(ROWS.get("evaluation", [])),
        **STEPS,
        "printed": printed.getvalue(),
    }


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])
    results = []
    for number, case in enumerate(cases):
        store = torch.distributed.FileStore(
            f"{sys.argv[2]}.{number}", int(os.environ["WORLD_SIZE"])
        )
        torch.distributed.init_process_group(
            "gloo",
            store=store,
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        results.append(run(case))
        destroy_global_state()  # which Bridge 0.3 leaves after an error
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if os.environ["RANK"] == "0":
        sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
