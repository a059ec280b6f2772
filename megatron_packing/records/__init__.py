# SPDX-License-Identifier: Apache-2.0
"""From stored files, wherever they are, to single records."""
