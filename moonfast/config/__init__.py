"""The configuration: declared, typed, and read once at start. `load.Config` is what the rest of the server holds."""
