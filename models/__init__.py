"""Prediction: features, serving, training and evaluation. Serving imports no training library."""
