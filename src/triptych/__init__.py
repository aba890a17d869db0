"""One latent-variable model, three panels: EM, variational inference and MCMC."""
