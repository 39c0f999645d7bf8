"""What a process finds on its path that lives by a clock of the drill's: see sitecustomize.py."""
