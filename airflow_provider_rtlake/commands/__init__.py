"""Sub-commands of `rtlake`, one module each."""
