"""The static site of a run: `python -m ldmseg_lib.reproduction report RUN_DIR`."""
