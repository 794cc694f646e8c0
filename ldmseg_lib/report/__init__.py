"""The static site of a run: `python -m ldmseg_lib.report RUN_DIR`."""
