"""What RESULTS.md rests on and nobody else needs.

measure.py and reference.py are shared; the others are scripts, started in the project's folder as
python -m benchmarks.NAME.
"""
