"""`python -m loadtest bids`: what one bidder process answers, beside the same HTTP layer that decides nothing."""
