# SPDX-License-Identifier: Apache-2.0
"""The endless order of packs, and the record of it in every checkpoint."""
