#!/usr/bin/env bash
# Tokenises conversations and packs them, once, on any machine that sees the data: no GPU, no torch.
#
#     SIZE=70b ROW=8192 DATA=data ./prepare.sh TOKENIZER TRAIN.jsonl VALID.jsonl
set -euo pipefail
here=$(dirname "$0")
source "$here/settings.sh"
if (($# != 3)); then
  echo "give a tokenizer, the training and the validation conversations: $0 TOKENIZER TRAIN.jsonl VALID.jsonl" >&2
  exit 2
fi
tokenizer=$1

# What is there already is used if it was made with the same settings.
check() { # FILE, FIELD VALUE...: of JSON, within "plan" where there is one
  "${PYTHON:-python3}" - "$@" << 'END'
import json, sys
path, *wanted = sys.argv[1:]
record = json.load(open(path))
record = record.get("plan", record)
for field, value in zip(wanted[::2], wanted[1::2]):
    if str(record[field]) != value:
        sys.exit(f"{path} was made with {field} {record[field]}, not {value}; remove what is there or choose another DATA")
END
}

for split in train valid; do
  input=$2
  shift
  if [ ! -e "$DATA/$split.idx" ]; then
    megatron-packing tokenize "$input" --output-prefix "$DATA/$split" --tokenizer "$tokenizer" \
      --on-bad-record skip
  fi
  check "$DATA/${split}_corpus.json" tokenizer "$tokenizer"
done
# Both in whole global batches: an epoch, and an evaluation, take each document once.
for split in train valid; do
  packs=$DATA/${split}_packs_$ROW
  if [ ! -e "$packs" ]; then
    megatron-packing pack "$DATA/$split" --sequence-length "$ROW" --alignment "$ALIGNMENT" \
      --overlong split --packs-multiple-of "$GLOBAL_BATCH" --output "$packs"
  fi
  check "$packs/manifest.json" alignment "$ALIGNMENT" packs_multiple_of "$GLOBAL_BATCH"
  megatron-packing verify "$packs"
done
