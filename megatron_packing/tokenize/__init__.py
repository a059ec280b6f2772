# SPDX-License-Identifier: Apache-2.0
"""Makes a corpus of records: options, encoders, workers, checkpoints and provenance.

May import: chat, schemas, records, tokenizers, corpus, files, counted, errors. Does not import
torch or Megatron.
"""
