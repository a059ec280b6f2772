#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tokenizes conversations and packs them, once, on any machine that sees the data: no GPU, no torch.
#
#     SIZE=70b ROW=8192 DATA=data ./prepare.sh TOKENIZER TRAIN.jsonl VALID.jsonl
#
# Records that cannot be used are skipped and counted, longer documents than a row are split.
set -euo pipefail
here=$(dirname "$0")
source "$here/settings.sh"
(($# == 3)) || stop "give a tokenizer and two files: $0 TOKENIZER TRAIN.jsonl VALID.jsonl"
tokenizer=$1
declare -A input=([train]=$2 [valid]=$3)
for file in "${input[@]}"; do [ -e "$file" ] || stop "$file does not exist; give a file of conversations"; done
command -v megatron-packing > /dev/null || stop "megatron-packing is not on the PATH; activate its environment"

# What is there already is used, if it was made of the same with the same settings.
for split in train valid; do
  # shellcheck disable=SC2206  # several flags
  made_of=("$DATA/$split" "$tokenizer" "${input[$split]}" ${TOKENIZE_FLAGS:-})
  if [ -e "$DATA/$split.idx" ]; then
    "${PYTHON:-python3}" "$here/check_prepared.py" corpus "${made_of[@]}"
  else
    "${PYTHON:-python3}" "$here/check_prepared.py" remember "${made_of[@]}"
    megatron-packing tokenize "${input[$split]}" --output-prefix "$DATA/$split" --tokenizer "$tokenizer" \
      --on-bad-record skip "${made_of[@]:3}"
  fi
done
# Both in whole global batches: an epoch, and an evaluation, take each document once.
for split in train valid; do
  packs=$DATA/${split}_packs_$ROW
  if [ -e "$packs" ]; then
    "${PYTHON:-python3}" "$here/check_prepared.py" packs "$packs" "$ROW" "$ALIGNMENT" "$GLOBAL_BATCH"
  else
    megatron-packing pack "$DATA/$split" --sequence-length "$ROW" --alignment "$ALIGNMENT" \
      --overlong split --packs-multiple-of "$GLOBAL_BATCH" --output "$packs"
  fi
  megatron-packing verify "$packs"
done
