# SPDX-License-Identifier: Apache-2.0
"""``plan_step`` behind the functions that other trainers call to plan a step.

Each function has the name, the arguments and the result of the function that it replaces, so one
assignment puts it in place. ``partitions.py`` is for verl and slime, ``slime.py`` for slime's whole
schedule, ``nemo_rl.py`` for NeMo-RL. Megatron's is ``megatron/step_scheduler.py``.

May import: planning, counted, errors. Needs numpy alone, and none of those trainers.
"""
