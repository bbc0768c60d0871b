"""Power plugs, relays and pins: what the printer, its light or its fan is switched with."""
