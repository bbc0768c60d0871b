"""Spoolman keeps account of filament: which spool is in use, and how much of it is left."""
