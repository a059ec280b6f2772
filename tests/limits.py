# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for what they start."""

# Seconds. It ends what hangs and says nothing about speed: a busy machine may be ten times slower
# than an idle one. The limit of a test, in pyproject.toml, is a little longer.
TIME_LIMIT = 800
