#!/usr/bin/env bash
# Tokenises conversations and packs them, once, on any machine that sees the data: no GPU, no torch.
#
#     SIZE=70b ROW=8192 DATA=data ./prepare.sh TOKENIZER TRAIN.jsonl VALID.jsonl
set -euo pipefail
here=$(dirname "$0")
source "$here/settings.sh"
tokenizer=$1

for split in train valid; do
  input=$2
  shift
  if [ ! -e "$DATA/$split.idx" ]; then
    megatron-packing tokenize "$input" --output-prefix "$DATA/$split" --tokenizer "$tokenizer" \
      --on-bad-record skip
  fi
done
# Both in whole global batches: an epoch, and an evaluation, take each document once.
for split in train valid; do
  packs=$DATA/${split}_packs_$ROW
  if [ ! -e "$packs" ]; then
    megatron-packing pack "$DATA/$split" --sequence-length "$ROW" --alignment "$ALIGNMENT" \
      --overlong split --packs-multiple-of "$GLOBAL_BATCH" --output "$packs"
  fi
  megatron-packing verify "$packs"
done
