"""The demand-side platform's decisions, vocabularies, adapters and control plane."""
