# SPDX-License-Identifier: Apache-2.0
"""From records of many formats to a corpus on disk: tokens and loss masks."""
