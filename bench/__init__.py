"""Benchmarks: `python -m bench NAME`. Every figure comes from a real broker and a real sequencer process."""
