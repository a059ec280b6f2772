# SPDX-License-Identifier: Apache-2.0
"""Converts records of all supported schemas to one form, a list of messages or a plain text.

``table`` lists the schemas, ``conversations`` finds that of a record and reads it.

May import: records, errors, counted. Does not know chat templates or tokenizers.
"""
