# SPDX-License-Identifier: Apache-2.0
"""Files and folders that exist whole or not at all, and how they are opened, locked and named."""
