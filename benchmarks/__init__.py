"""What RESULTS.md rests on and nobody else needs.

measure.py, steps.py, reference.py and rivals.py are shared; the others are scripts, started in the
project's folder as python -m benchmarks.NAME. gpu.py starts those that a GPU changes.
"""
