"""The computer that the server runs on: what it is, how it does, its services and what is plugged in."""
