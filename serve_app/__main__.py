"""`python -m serve_app` is `glm-serve`."""

import sys

from serve_app.cli import main

sys.exit(main())
