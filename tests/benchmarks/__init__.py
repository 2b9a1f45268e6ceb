"""Benchmarks, apart from the tests: ``python -m tests.benchmarks [WORKLOAD ...] [--runs N]``.

A workload is a module of this folder. Its contenders run in turn, A B C A B C ..., each in a process
of its own, so that a drift of the machine's speed hits all alike; what counts is the ratio to the
reference of the same round. Nothing here asserts a time.
"""
