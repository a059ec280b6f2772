# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line, one module each: HELP, add_arguments(parser) and run(args).

May import: page, report, interchange, thd, tokenize, simulate, probe, isolation, chat, schemas,
index, planning, records, tokenizers, corpus, files, flops, counted, errors. Does not import torch
or Megatron, but in verbs that run a model, when they run: check-model imports bridge and megatron.
"""
