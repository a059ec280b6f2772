from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest

pytest.importorskip("transformers")

from megatron_packing import Corpus
from megatron_packing.corpus.tokenize import TokenizeOptions, tokenize
from megatron_packing.errors import InputError

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


@pytest.fixture
def run(chitchat, tmp_path):
    def run(*inputs, name="corpus", on_progress=None, **changes):
        options = TokenizeOptions(
            inputs=inputs,
            output_prefix=tmp_path / "out" / name,
            **{"tokenizer": str(chitchat / "tokenizer"), **changes},
        )
        return tokenize(options, on_progress)

    return run


def test_documents_and_masks_are_written_in_input_order(run, few_conversations, tmp_path):
    figures = run(few_conversations)
    corpus = Corpus(tmp_path / "out" / "corpus")
    assert len(corpus) == figures.num_documents == 200
    assert corpus.num_tokens.sum() == figures.num_tokens
    assert corpus.num_tokens.max() == figures.longest_document
    assert sum(corpus.loss_mask(i).sum() for i in range(200)) == figures.num_trained_tokens
    assert corpus.tokens(0).dtype == np.uint16
    record = json.loads((tmp_path / "out" / "corpus_corpus.json").read_text())
    assert record["num_documents"] == 200


def test_the_bytes_do_not_depend_on_the_number_of_workers(run, few_conversations, tmp_path):
    run(few_conversations, name="one", workers=1)
    run(few_conversations, name="three", workers=3)
    for ending in (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx"):
        one, three = (tmp_path / "out" / f"{name}{ending}" for name in ("one", "three"))
        assert one.read_bytes() == three.read_bytes()


def test_several_files_are_read_one_after_another(run, write_jsonl, tmp_path):
    other = {"prompt": "A", "completion": "B"}
    first = write_jsonl(GOOD, "", GOOD, name="first.jsonl")
    second = write_jsonl(other, name="second.jsonl")
    done = []
    run(first, second, on_progress=lambda size, figures: done.append((size, figures.num_documents)))
    assert len(Corpus(tmp_path / "out" / "corpus")) == 3
    assert done[-1] == (first.stat().st_size + second.stat().st_size, 3)


def test_a_chat_template_of_ones_own_is_used(run, write_jsonl, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ '[INST]' + m.content + '</s>' }}{% endfor %}")
    run(write_jsonl(GOOD), chat_template=template)
    tokens = Corpus(tmp_path / "out" / "corpus").tokens(0).tolist()
    assert [token for token in tokens if token < 5] == [3, 2, 3, 2]  # no <s>, no [/INST]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 cannot be used: it is not JSON"),
        ("[]", "line 2 cannot be used: it is a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2 .* no assistant message"),
        (
            {"messages": [{"role": "system", "content": "x"}, *GOOD["messages"]]},
            "line 2 .* no place for the role system",
        ),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(run, write_jsonl, tmp_path, line, reason):
    with pytest.raises(InputError, match=rf"input.jsonl, {reason}"):
        run(write_jsonl(GOOD, line, GOOD))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bad_line_is_named_from_a_worker_process_too(run, write_jsonl, tmp_path):
    with pytest.raises(InputError, match=r"input.jsonl, line 2 cannot be used: it is not JSON"):
        run(write_jsonl(GOOD, "{", GOOD), workers=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.timeout(120)
def test_an_interrupted_run_ends_at_once_and_leaves_nothing(run, chitchat, tmp_path):
    """Ctrl-C while workers have results to hand over."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(chitchat / "conversations.jsonl", workers=2, on_progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_a_line_that_is_not_utf8_is_named(run, tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9", "completion": "x"}\n')
    with pytest.raises(InputError, match=r"latin.jsonl, line 1 .* not UTF-8"):
        run(path)


def test_what_cannot_be_read_is_named(run, write_jsonl, tmp_path):
    good = write_jsonl(GOOD)
    with pytest.raises(InputError, match=r"the input .*missing.jsonl does not exist"):
        run(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match=r"the tokenizer '.*nowhere' could not be loaded"):
        run(good, tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"the chat template .*missing.jinja cannot be read"):
        run(good, chat_template=tmp_path / "missing.jinja")
    with pytest.raises(InputError, match="--workers is 0"):
        run(good, workers=0)
    with pytest.raises(InputError, match="holds no conversations; nothing was written"):
        run(write_jsonl("", name="empty.jsonl"))


def test_a_tokenizer_without_a_template_asks_for_one(run, write_jsonl, chitchat):
    bare = str(chitchat / "tokenizer" / "tokenizer.json")
    with pytest.raises(InputError, match="has no chat template; give one with --chat-template"):
        run(write_jsonl(GOOD), tokenizer=bare)


def test_an_existing_corpus_is_not_overwritten(run, write_jsonl, tmp_path):
    run(write_jsonl(GOOD))
    before = (tmp_path / "out" / "corpus.idx").read_bytes()
    with pytest.raises(InputError, match=r"corpus.idx exists already"):
        run(write_jsonl(GOOD, GOOD))
    assert (tmp_path / "out" / "corpus.idx").read_bytes() == before
