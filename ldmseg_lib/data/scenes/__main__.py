"""`python -m ldmseg_lib.data.scenes`: render the embedded data set."""

from .dataset import main

raise SystemExit(main())
