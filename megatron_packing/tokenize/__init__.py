# SPDX-License-Identifier: Apache-2.0
"""Runs that make a corpus of records: workers, checkpoints, provenance."""
