# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders atomically, locks them, and opens files that users name.

May import: errors, counted. Does not know what the files hold.
"""
