"""Says whether what prepare.sh made before is what it would make now.

    check_prepared.py corpus PREFIX TOKENIZER CONVERSATIONS
    check_prepared.py packs FOLDER ALIGNMENT GLOBAL_BATCH

Needs Python alone. Ends with a message where something differs; prints the number of packs.
"""

import hashlib
import json
import sys
from pathlib import Path


def check_corpus(prefix, tokenizer, conversations):
    """Compare with PREFIX_corpus.json, which ``megatron-packing tokenize`` wrote."""
    record = json.loads(Path(f"{prefix}_corpus.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(Path(conversations).read_bytes()).hexdigest()
    (source,) = record["inputs"]
    made_of = f"{source['name']} (sha256 {source['sha256'][:12]})"
    if source["sha256"] != digest:
        return f"{prefix} was made from {made_of}, not from {conversations} ({digest[:12]})"
    here, there = Path(tokenizer), Path(record["tokenizer"])
    if here != there and here.resolve() != there.resolve():
        return f"{prefix} was made with the tokenizer {there}, not {here}"
    return ""


def check_packs(folder, alignment, global_batch):
    """Compare with the manifest of a pack index."""
    manifest = Path(folder, "manifest.json")
    if not manifest.exists():
        sys.exit(f"error: {folder} is not there; run prepare.sh with the same SIZE, ROW and DATA")
    record = json.loads(manifest.read_text(encoding="utf-8"))
    plan = record["plan"]
    if plan["alignment"] != int(alignment):
        return f"{folder} was packed with an alignment of {plan['alignment']}, not {alignment}"
    if plan["packs_multiple_of"] % int(global_batch):
        multiple = plan["packs_multiple_of"]
        return f"{folder} was packed in multiples of {multiple}, not of GLOBAL_BATCH {global_batch}"
    sys.stdout.write(f"{record['figures']['num_packs']}\n")
    return ""


if __name__ == "__main__":
    check = {"corpus": check_corpus, "packs": check_packs}[sys.argv[1]]
    problem = check(*sys.argv[2:])
    if problem:
        sys.exit(f"error: {problem}; remove it and run prepare.sh again, or choose another DATA")
