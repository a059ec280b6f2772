# SPDX-License-Identifier: Apache-2.0
"""Checks that a chat template ends answers with a special token of the tokenizer.

A model that is trained on answers without such a token does not learn to stop.
"""

from __future__ import annotations

from collections.abc import Iterable

from megatron_packing.chat.rendered_conversation import RenderedConversation
from megatron_packing.chat.turns import TurnFinder
from megatron_packing.counted import counted
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from megatron_packing.schemas.conversations import Conversation
from megatron_packing.tokenizers.text_tokenizer import TextTokenizer


class AnswerEnds:
    """Looks for a special token at the end of each trained answer."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        name: str,
        special: Iterable[str],
        allow_other_template: bool,
    ) -> None:
        """Keep what the checks need.

        Args:
            tokenizer: The tokenizer.
            name: Its name, for messages.
            special: Its special tokens.
            allow_other_template: Count answers without a special token instead of refusing them.
        """
        self._tokenizer = tokenizer
        self._name = name
        self._ends = tuple(special)
        self._allow_other_template = allow_other_template
        self._checked: set[TurnFinder] = set()

    def check_template(self, turns: TurnFinder) -> None:
        """Check a template once, with a short conversation.

        Raises:
            InputError: The template ends an answer without a special token.
        """
        if turns in self._checked or self._allow_other_template:
            return
        self._checked.add(turns)
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
        try:
            found = turns.render(Conversation(messages, (True, True)))
        except RecordError:
            return  # the template cannot render this; each record is checked too
        for _, end in found.ends:
            if not self._is_ended(found.text[:end]):
                written = found.text[found.text.rfind("Hello.", 0, end) + len("Hello.") : end]
                raise InputError(
                    f"the chat template ends an answer {self._ordinary(written)}, so a model would "
                    f"not learn to stop; give the template of this tokenizer's model with "
                    f"--chat-template, or accept this one with --allow-other-template"
                )

    def notes(self, found: RenderedConversation) -> tuple[str, ...]:
        """Return a note if an answer of a conversation has no special token at its end.

        Raises:
            RecordError: An answer has none, and ``allow_other_template`` is False.
        """
        for turn, end in found.ends:
            if self._is_ended(found.text[:end]):
                continue
            if self._allow_other_template:
                return ("answers that no special token ends",)
            raise RecordError(
                "no end token",
                f"the chat template writes no special token of the tokenizer at the end of "
                f"assistant message {turn}, so a model would not learn to stop there; use another "
                f"template, or accept this one with --allow-other-template",
            )
        return ()

    def _is_ended(self, text: str) -> bool:
        return text.rstrip().endswith(self._ends)

    def _ordinary(self, written: str) -> str:
        """Describe an end without a special token."""
        if not written.strip():
            return "without a token of its own"
        (tokens,) = self._tokenizer.tokenize([written])
        pieces = [self._tokenizer.decode([token]) for token in tokens.ids.tolist()]
        return (
            f"with {written!r}, which is not a special token of the tokenizer {self._name!r} but "
            f"{counted(len(pieces), 'ordinary token')} ({', '.join(map(repr, pieces))})"
        )
