"""The relaxed search space and its discrete limit, from relaxations to the pruned network.

Images, parameters and a relaxation enter; features `(N, D)` leave. A genotype is read off the
alphas.
"""
