"""How spend is spread over a flight: the plan, the controller that follows it, and the throttle. Pure functions."""
