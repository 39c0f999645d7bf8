"""The control plane: the catalogue, reports and explanations over REST."""
