# SPDX-License-Identifier: Apache-2.0
"""Draws a report as one page of HTML that needs no network, no script and no other file.

``whole`` joins the page. ``plans`` has the sections about packs, ``steps`` those about predicted
steps. ``charts`` draws with matplotlib, ``lanes`` draws packs and pipelines.

May import: report, simulate, stream, planning, errors.
"""
