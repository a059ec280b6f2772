# SPDX-License-Identifier: Apache-2.0
"""From messages to text by a chat template, and which of the text is trained."""
