# SPDX-License-Identifier: Apache-2.0
"""A package, as others install one of this name."""
