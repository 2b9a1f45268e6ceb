"""Run ``flowrunner demo`` as ``python -m flowrunner_provider.demo``."""

from __future__ import annotations

import argparse
import sys

from flowrunner_provider.demo.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="flowrunner demo")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
