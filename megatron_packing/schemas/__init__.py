# SPDX-License-Identifier: Apache-2.0
"""From a record of any known schema to one form: a list of messages."""
