# SPDX-License-Identifier: Apache-2.0
"""From lengths to packs, and the packs on disk."""
