# SPDX-License-Identifier: Apache-2.0
"""One verb of the command line a module: HELP, add_arguments(parser) and run(args)."""
