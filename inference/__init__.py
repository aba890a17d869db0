"""Inference in the programs of `triptych.models`: EM, SVI, MCMC and other methods, each giving a `Fit`."""
