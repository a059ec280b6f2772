# SPDX-License-Identifier: Apache-2.0
"""Replaces control characters in text before it is printed to a terminal."""

from __future__ import annotations

_KEPT = "\n\t"
# Also replaced: characters that reorder text, and line ends that editors do not show.
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_LINE_ENDS = "\u2028\u2029"
_PICTURES = 0x2400  # U+2400 is the picture of U+0000, and so on to U+2420
_PICTURE_OF_DELETE = "\u2421"


def _shown(code: int) -> str:
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return _PICTURE_OF_DELETE
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_TABLE = {
    code: _shown(code)
    for code in (*range(0x20), *range(0x7F, 0xA0), *map(ord, _BIDIRECTIONAL + _LINE_ENDS))
    if chr(code) not in _KEPT
}
_TABLE |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}  # surrogates
_ONE_LINE = {ord(character): _shown(ord(character)) for character in _KEPT}


def visible(text: str) -> str:
    r"""Replace control characters by pictures (``U+241B`` for escape) or by ``\x9b``.

    Line breaks and tabs stay. So do the letters, marks and symbols of all scripts.
    """
    return text.translate(_TABLE)


def visible_line(text: str) -> str:
    """Like ``visible``, but on one line: line breaks and tabs become pictures too."""
    return text.translate(_TABLE).translate(_ONE_LINE)
