"""`python -m loadtest capacity`: the highest rate at which a bidder keeps its service level, and what is beyond it."""
