"""Corpora on disk: tokens, loss masks and lengths of many documents."""
