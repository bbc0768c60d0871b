"""What others need from the computer."""
