"""Files of labelled impressions: each module reads one kind into Rows and says by its FeatureSpec what they hold."""
