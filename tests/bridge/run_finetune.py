# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny Llama by Megatron-Bridge's own ``finetune()`` on packs, on CPU.

    run_finetune.py CASES.json STORE

A case is {"train": BLEND, "validation": BLEND, "iterations": COUNT, "save": FOLDER, "load": FOLDER,
"model": {...}, "lora": bool, "batch": ROWS, "check": bool, "program": TEXT}: the program, if there
is one, is run in place of use_packed_data. The model is that of the Hugging Face folder ``hf``
beside CASES.json, by way of the Megatron checkpoint ``megatron``, which ``AutoBridge.import_ckpt``
makes of it where there is none. Cases run one after another, in one process a rank; ranks find each
other by the file STORE. Prints a JSON list: of each case the loss and the gradient norm of every
step, the losses of evaluations, which rows of which index were read, the optimizer's settings, and
what was printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bridge import run_pretrain as run_tiny  # first: it makes Bridge ready

# isort: split
import megatron.bridge.models.gpt_provider as gpt_provider
import megatron.bridge.peft.utils as peft_utils
import megatron.bridge.training.gpt_step as gpt_step
import torch
from megatron.bridge import AutoBridge
from megatron.bridge.peft.lora import LoRA
from megatron.bridge.training.finetune import finetune
from megatron.bridge.training.initialize import destroy_global_state

from megatron_packing.bridge import dataset
from megatron_packing.bridge.recipe import use_packed_data
from megatron_packing.megatron.layer_spec import packed_layer_spec
from megatron_packing.report.console import console
from tests.bridge.run_bridge import put_cut_in_place

VOCABULARY = 256
OPTIMIZER = ("lr", "adam_beta1", "adam_beta2", "adam_eps", "clip_grad")
RESULT: dict[str, list] = {}
_evaluate = run_tiny.eval_module.evaluate


def record_evaluation(*args, **kwargs):
    RESULT["evaluated rows"].append([])
    found = _evaluate(*args, **kwargs)
    if found[0]:
        RESULT["evaluations"].append(float(found[0]["lm loss"]))
    return found


def record_row(self, sample, **kwargs):
    rows = RESULT["rows"] if self.new_order_each_epoch else RESULT["evaluated rows"][-1]
    rows.append([str(self.index.path), sample])
    return run_tiny._row(self, sample, **kwargs)


run_tiny.eval_module.evaluate = record_evaluation
dataset.PackedRows.row = record_row
# In place of Transformer Engine's layers, which need a GPU.
gpt_provider.default_layer_spec = packed_layer_spec
peft_utils.HAVE_TE = False


def small_model(hf: Path, **changes):
    """What Bridge makes of the Hugging Face folder, for a CPU."""
    model = AutoBridge.from_hf_pretrained(hf, torch_dtype=torch.float32).to_megatron_provider(
        load_weights=False
    )
    model.transformer_layer_spec = packed_layer_spec
    settings = {
        **dict.fromkeys(run_tiny.FUSED, False),
        "transformer_impl": "local",
        "use_cpu_initialization": True,
        "batch_p2p_comm": False,
        "params_dtype": torch.float32,
        "pipeline_dtype": torch.float32,
        "bf16": False,
        "fp16": False,
        **changes,
    }
    for name, value in settings.items():
        setattr(model, name, value)
    return model


def import_model(folder: Path) -> None:
    """As AutoBridge.import_ckpt does, but for the layers and what needs a GPU."""
    if (folder / "megatron").exists():
        return
    bridge = AutoBridge.from_hf_pretrained(folder / "hf", torch_dtype=torch.float32)
    provider = small_model(folder / "hf")
    provider.register_pre_wrap_hook(lambda model: bridge.load_hf_weights(model) or model)
    provider.finalize()
    model = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
    bridge.save_megatron_model(model, folder / "megatron")


def run(case: dict, folder: Path) -> dict:
    RESULT.update({"evaluations": [], "evaluated rows": [], "rows": []})
    run_tiny.STEPS.update(losses=[], norms=[])
    cfg = run_tiny.tiny_recipe(None)
    cfg.model = small_model(folder / "hf", **case.get("model", {}))
    cfg.tokenizer.vocab_size = cfg.model.vocab_size - 1
    cfg.checkpoint.pretrained_checkpoint = str(folder / "megatron")
    cfg.checkpoint.save, cfg.checkpoint.load = case.get("save"), case.get("load")
    cfg.train.train_iters = case["iterations"]
    cfg.optimizer.lr = cfg.scheduler.max_lr = 1e-3
    cfg.peft = LoRA(dim=4, alpha=8) if case.get("lora") else None
    cfg.train.global_batch_size = case.get("batch", cfg.train.global_batch_size)
    if "program" in case:
        from megatron.core.tokenizers.text.libraries import NullTokenizer

        NullTokenizer.eos_id = VOCABULARY - 1  # which readers of packed files ask for
        exec(case["program"], {"cfg": cfg})
    else:
        use_packed_data(
            cfg,
            train=case["train"],
            validation=case["validation"],
            keep="rows",
            packing_check=case.get("check", False),
            quiet=True,
        )
    console.file = printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        finetune(cfg, gpt_step.forward_step)
    settings = {name: getattr(cfg.optimizer, name) for name in OPTIMIZER}
    assert cfg.scheduler.start_weight_decay == cfg.scheduler.end_weight_decay
    settings["weight_decay"] = cfg.scheduler.start_weight_decay  # which overrules the optimizer's
    return {
        **run_tiny.STEPS,
        **RESULT,
        "optimizer": settings,
        "seed": cfg.dataset.seed,
        "printed": printed.getvalue(),
    }


def main() -> None:
    path, rank, ranks = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.setdefault("LOCAL_RANK", str(rank))
    put_cut_in_place()
    results = []
    for number, case in enumerate([None, *json.loads(path.read_text())]):
        store = torch.distributed.FileStore(f"{sys.argv[2]}.{number}", ranks)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        if case is None:
            import_model(path.parent)
        else:
            results.append(run(case, path.parent))
        destroy_global_state()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
