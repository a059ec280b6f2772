# SPDX-License-Identifier: Apache-2.0
"""Modules that raise an error on import if a package is missing that we never install.

May import: errors.
"""
