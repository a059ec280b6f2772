# SPDX-License-Identifier: Apache-2.0
"""What packing does to the quality of fine-tuning: a study that can be stopped and goes on."""
