"""What it costs: measured side by side with the reference ways of the same libraries.

`python -m benchmarks` lists the benchmarks and runs them. Each takes the reference and the server's
own way in turns, in one run on one machine, so that its ratios hold although no two machines agree
on milliseconds.
"""
