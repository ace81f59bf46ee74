"""The judge's examination: references as candidates, and planted mistakes, through the functions that a sweep uses.

python -m benchmarks.judge_examination FLASHINFER_TRACE_FOLDER --work FOLDER --out docs/results
"""
