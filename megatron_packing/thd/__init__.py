"""Packs as rows of tokens (THD), and attention over them."""
