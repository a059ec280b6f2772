# SPDX-License-Identifier: Apache-2.0
"""Says whether what prepare.sh made before is what it would make now.

    check_prepared.py remember PREFIX TOKENIZER CONVERSATIONS [FLAGS OF TOKENIZE]
    check_prepared.py corpus PREFIX TOKENIZER CONVERSATIONS [FLAGS OF TOKENIZE]
    check_prepared.py packs FOLDER ROW ALIGNMENT GLOBAL_BATCH

The first writes PREFIX_prepared.json before a corpus is tokenized, the second compares with it.
Needs Python alone. Ends with a message where something differs; ``packs`` prints their number.
"""

import hashlib
import json
import sys
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tekken.json",
    "tokenizer.model",
)


def digest_of(path):
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(tokenizer, conversations, flags):
    """What decides a corpus: by content where there are files, else by name."""
    path = Path(tokenizer)
    if path.is_dir():
        found = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        content = {file.name: digest_of(file) for file in found}
    else:
        content = digest_of(path) if path.is_file() else tokenizer
    files = {flag: digest_of(flag) for flag in flags if Path(flag).is_file()}
    return {
        "conversations": digest_of(conversations),
        "tokenizer": content,
        "flags of tokenize": flags,
        "files in the flags": files,
    }


def remember(prefix, tokenizer, conversations, *flags):
    """Write what a corpus is about to be made from."""
    text = json.dumps(describe(tokenizer, conversations, list(flags)), indent=2)
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}_prepared.json").write_text(text + "\n", encoding="utf-8")
    return ""


def check_corpus(prefix, tokenizer, conversations, *flags):
    """Compare with what ``remember`` wrote, and with the record that ``tokenize`` wrote."""
    record = json.loads(Path(f"{prefix}_corpus.json").read_text(encoding="utf-8"))
    now = describe(tokenizer, conversations, list(flags))
    (source,) = record["inputs"]
    if source["sha256"] != now["conversations"]:
        made_of = f"{source['name']} (sha256 {source['sha256'][:12]})"
        return (
            f"{prefix} was made from {made_of}, not from {conversations} "
            f"({now['conversations'][:12]})"
        )
    remembered = Path(f"{prefix}_prepared.json")
    if remembered.exists():
        was = json.loads(remembered.read_text(encoding="utf-8"))
        if was["tokenizer"] != now["tokenizer"]:
            return f"{prefix} was made with another content of the tokenizer than {tokenizer} has"
        if was["flags of tokenize"] != now["flags of tokenize"]:
            before, after = (
                " ".join(one["flags of tokenize"]) or "none, the defaults" for one in (was, now)
            )
            return f"{prefix} was made with TOKENIZE_FLAGS {before}; they are now {after}"
        for file, digest in now["files in the flags"].items():
            if was["files in the flags"].get(file) != digest:
                return f"{prefix} was made with another content of {file}"
        return ""
    # Made by hand, or before prepare.sh remembered: by what the record says.
    here, there = Path(tokenizer), Path(record["tokenizer"])
    if here != there and here.resolve() != there.resolve():
        return f"{prefix} was made with the tokenizer {there}, not {here}"
    if flags or record.get("loss_on") != "assistant":
        return (
            f"{prefix}_prepared.json is missing, so nothing says whether {prefix} was made with "
            f"these TOKENIZE_FLAGS (its record says --loss-on {record.get('loss_on')})"
        )
    return ""


def check_packs(folder, row, alignment, global_batch):
    """Compare with the manifest of a pack index."""
    manifest = Path(folder, "manifest.json")
    if not manifest.exists():
        sys.exit(f"error: {folder} is not there; run prepare.sh with the same SIZE, ROW and DATA")
    record = json.loads(manifest.read_text(encoding="utf-8"))
    plan = record["plan"]
    wanted = {"sequence_length": int(row), "alignment": int(alignment), "overlong": "split"}
    for name, value in wanted.items():
        if plan[name] != value:
            return f"{folder} was packed with {name} {plan[name]}, not {value}"
    if plan["packs_multiple_of"] % int(global_batch):
        multiple = plan["packs_multiple_of"]
        return f"{folder} was packed in multiples of {multiple}, not of GLOBAL_BATCH {global_batch}"
    sys.stdout.write(f"{record['figures']['num_packs']}\n")
    return ""


if __name__ == "__main__":
    check = {"remember": remember, "corpus": check_corpus, "packs": check_packs}[sys.argv[1]]
    problem = check(*sys.argv[2:])
    if problem:
        sys.exit(f"error: {problem}; remove it and run prepare.sh again, or choose another DATA")
