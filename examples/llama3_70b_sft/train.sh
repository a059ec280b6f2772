#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts this node's share of a run; the same on every node.
#
#     SIZE=70b ROW=8192 DATA=data TOKENIZER=... INITIAL=... SAVE=... \
#       NODES=4 HEAD=node0 ./train.sh [MORE FLAGS OF MEGATRON]
#
# PRINT=1 prints the command instead, a word a line.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/settings.sh"

[ -n "${TOKENIZER:-}" ] || stop "TOKENIZER is not set; give the tokenizer that prepare.sh was given"
[ -n "${SAVE:-}" ] || stop "SAVE is not set; give a folder for checkpoints"
[ -z "${INITIAL:-}" ] || [ -n "${PRINT:-}" ] || [ -e "$INITIAL" ] || stop "INITIAL is $INITIAL, which does not exist"
MAX_RESTARTS=${MAX_RESTARTS:-0} # how often torchrun starts all ranks again after one has died
[[ $MAX_RESTARTS =~ ^[0-9]+$ ]] || stop "MAX_RESTARTS is $MAX_RESTARTS; give a whole number, 0 or more"

packs() { # FOLDER: how many, if they are those of these settings
  "${PYTHON:-python3}" "$here/check_prepared.py" packs "$1" "$ROW" "$ALIGNMENT" "$GLOBAL_BATCH"
}
if [ -z "${STEPS:-}" ]; then
  count=$(packs "$TRAIN_PACKS")
  STEPS=$((EPOCHS * count / GLOBAL_BATCH))
fi
if [ -z "${EVAL_STEPS:-}" ]; then
  count=$(packs "$VALID_PACKS")
  EVAL_STEPS=$((count / GLOBAL_BATCH))
fi

PROGRAM=("$here/../pretrain_packed_gpt.py")
if [ "$SIZE" = tiny ]; then PROGRAM=("$here/../cpu_trainer.py" "${PROGRAM[@]}"); fi
LAUNCH=(
  "${PYTHON:-python3}" -m torch.distributed.run --nnodes "${NODES:-1}" --nproc-per-node "${GPUS_PER_NODE:-8}"
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29500}" --rdzv-id "${SLURM_JOB_ID:-0}"
  --max-restarts "$MAX_RESTARTS"
)
TRAINING=(
  --seq-length "$ROW" --max-position-embeddings "$ROW"
  --micro-batch-size 1 --global-batch-size "$GLOBAL_BATCH" --train-iters "$STEPS"
  --lr "$LR" --min-lr 0 --lr-decay-style cosine --lr-warmup-fraction 0.05
  --weight-decay 0.1 --adam-beta2 0.95 --clip-grad 1.0
  --calculate-per-token-loss --no-create-attention-mask-in-dataloader
)
PACKED_DATA=(
  --train-data-path "$DATA/train" --valid-data-path "$DATA/valid"
  --packing-indexes "$TRAIN_PACKS" "$VALID_PACKS" --packing-balance
  --num-workers 2 --eval-interval 100 --eval-iters "$EVAL_STEPS"
)
TOKENIZER_FLAGS=(--tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER")
# Goes on from SAVE where there is a checkpoint, else begins with INITIAL.
CHECKPOINTS=(--save "$SAVE" --load "$SAVE" --save-interval 100 --ckpt-format torch_dist)
# For more steps than at first Megatron asks for the schedule of this command in place of the checkpoint's.
CHECKPOINTS+=(--override-opt_param-scheduler)
if [ -n "${INITIAL:-}" ]; then
  CHECKPOINTS+=(--pretrained-checkpoint "$INITIAL")
elif [ "$SIZE" != tiny ]; then # Megatron would train random weights
  [ -e "$SAVE/latest_checkpointed_iteration.txt" ] ||
    stop "$SAVE holds no checkpoint to go on from: give INITIAL, the model to start with"
  CHECKPOINTS+=(--exit-on-missing-checkpoint)
fi
LOGGING=(--log-interval 1 --log-throughput)

COMMAND=(
  "${LAUNCH[@]}" "${PROGRAM[@]}" "${MODEL[@]}" "${LAYOUT[@]}" "${RECOMPUTE[@]}" "${PRECISION[@]}" "${OVERLAP[@]}"
  "${TRAINING[@]}" "${PACKED_DATA[@]}" "${TOKENIZER_FLAGS[@]}" "${CHECKPOINTS[@]}" "${LOGGING[@]}" "$@"
)
if [ -n "${PRINT:-}" ]; then
  printf '%s\n' "${COMMAND[@]}"
  exit
fi
# Megatron asks for one connection under tensor parallelism, so that communication keeps its order.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# Each attempt gets a store of its own: in a shared one new ranks may find addresses of dead ones, and wait.
if ((10#$MAX_RESTARTS > 0)); then export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; fi
exec "${COMMAND[@]}"
