"""Unit, property, cases, contract, integration, simulation, bench; and the meta-tests beside this file."""
