# SPDX-License-Identifier: Apache-2.0
# Llama 3.1's sizes, layout and batch of a run, chosen by SIZE and ROW; sourced by the scripts here.
# The reasons are in README.md. GPUs are taken to have 80 GB.

stop() { # MESSAGE
  echo "error: $1" >&2
  exit 2
}

SIZE=${SIZE:-70b} # 8b, 70b, 405b, or tiny, which trains on a CPU
DATA=${DATA:-data}
if [ "$SIZE" = tiny ]; then ROW=${ROW:-256} GLOBAL_BATCH=${GLOBAL_BATCH:-4}; fi
ROW=${ROW:-8192}
EPOCHS=${EPOCHS:-2}
for name in ROW GLOBAL_BATCH EPOCHS; do
  [[ ${!name-1} =~ ^[1-9][0-9]*$ ]] || stop "$name is ${!name}; give a whole number, 1 or more"
done
# Rows of a step. Those of 8,192 hold about half a million positions.
GLOBAL_BATCH=${GLOBAL_BATCH:-$((524288 / ROW > 8 ? 524288 / ROW : 8))}
by_row() { # UP_TO_8192 UP_TO_32768 LONGER
  if ((ROW <= 8192)); then echo "$1"; elif ((ROW <= 32768)); then echo "$2"; else echo "$3"; fi
}

MODEL=(
  --position-embedding-type rope --rotary-base 500000
  --normalization RMSNorm --norm-epsilon 1e-5 --swiglu --disable-bias-linear
  --untie-embeddings-and-output-weights --attention-dropout 0 --hidden-dropout 0
)
# Llama 3 has no scaling of positions, and rows of 8,192 at most.
LLAMA=(--use-rope-scaling --rope-scaling-factor 8 --group-query-attention --num-query-groups 8)
PRECISION=(--bf16)
OVERLAP=(--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather)

case $SIZE in
  8b)
    MODEL+=(--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 "${LLAMA[@]}")
    TP=$(by_row 2 4 4) PP=1 CP=$(by_row 1 1 4)
    LR=${LR:-1e-5}
    ;;
  70b)
    MODEL+=(--num-layers 80 --hidden-size 8192 --ffn-hidden-size 28672 --num-attention-heads 64 "${LLAMA[@]}")
    TP=8 PP=4 CP=$(by_row 1 2 8)
    LR=${LR:-5e-6}
    ;;
  405b)
    # 126 layers and, on the first and the last stage, the embedding and the loss in place of one more.
    MODEL+=(--num-layers 126 --hidden-size 16384 --ffn-hidden-size 53248 --num-attention-heads 128 "${LLAMA[@]}")
    MODEL+=(--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split)
    TP=8 PP=16 CP=$(by_row 1 2 8)
    LR=${LR:-2e-6}
    ;;
  tiny)
    MODEL+=(--num-layers 4 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 4)
    MODEL+=(--group-query-attention --num-query-groups 2)
    TP=2 PP=2
    if ((ROW > 256)); then CP=2; else CP=1; fi
    LR=${LR:-1e-3}
    PRECISION=(
      --transformer-impl local --use-cpu-initialization --no-rope-fusion
      --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-bias-swiglu-fusion
      --no-bias-dropout-fusion --no-persist-layer-norm --distributed-backend gloo
    )
    OVERLAP=() # without Apex and Transformer Engine a distributed optimizer loads no checkpoints
    ;;
  *) stop "SIZE is $SIZE; give 8b, 70b, 405b or tiny" ;;
esac

LAYOUT=(--tensor-model-parallel-size $TP --pipeline-model-parallel-size $PP --context-parallel-size $CP)
if ((TP > 1)); then LAYOUT+=(--sequence-parallel); fi
if ((ROW > 8192)) || [ "$SIZE" = 405b ]; then
  RECOMPUTE=(--recompute-granularity full --recompute-method uniform --recompute-num-layers 1)
else
  RECOMPUTE=(--recompute-granularity selective)
fi
ALIGNMENT=$((CP > 1 ? 2 * CP : 1))
TRAIN_PACKS=$DATA/train_packs_$ROW
VALID_PACKS=$DATA/valid_packs_$ROW
