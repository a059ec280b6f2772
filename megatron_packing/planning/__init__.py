# SPDX-License-Identifier: Apache-2.0
"""From the lengths of documents to packs: the Python face of the native core."""
