"""The endpoints of files, by what they do."""
