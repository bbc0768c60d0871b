"""What starts and stops services: one module for each value of `[machine] provider`."""
