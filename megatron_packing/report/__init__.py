# SPDX-License-Identifier: Apache-2.0
"""What people read: tables, progress and packs in a terminal."""
