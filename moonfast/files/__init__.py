"""Files of users: roots, what can be done with them, their metadata."""
