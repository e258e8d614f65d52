"""`python -m sacroplasty.cli`, for processes that start processes."""

from . import main

main()
