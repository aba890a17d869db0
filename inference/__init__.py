"""Inference in the programs of `triptych.models`: EM, SVI and MCMC, each giving a `Fit`."""
