"""Groups of tasks that belong together."""
