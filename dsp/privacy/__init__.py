"""What privacy signals allow: TCF consent, GPP and US privacy strings, COPPA, device limits. Pure."""
