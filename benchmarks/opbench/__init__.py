"""The parts of `kernel_bench.py`: what is timed (`table`), how (`measure`), and how it is told (`report`)."""
