# SPDX-License-Identifier: Apache-2.0
"""Imported before a package that this project does not install, to say when it is missing."""
