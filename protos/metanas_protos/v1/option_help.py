"""Help on the options of an adaptation: the comments of `AdaptationOptions`."""

from collections.abc import Mapping

OPTION_HELP: Mapping[str, str] = {
    'steps': 'Steps on weights and architecture together, 0 to 500.',
    'tuning_steps': 'Steps on the weights of the pruned network afterwards, 0 to 500.',
    'weight_lr': 'Learning rate of the weights, 0 to 1.',
    'alpha_lr': 'Learning rate of the architecture parameters, 0 to 1; 0 keeps the meta-learned architecture.',
    'temperature_start': 'Temperature of the relaxation at the first step, above 0 and at most 10.',
    'temperature_end': 'Temperature at the last step, above 0 and at most `temperature_start`.',
    'batch_size': 'Support images a step, 1 to 1000; larger support sets are gone through in mini-batches.',
    'gradient_clip': 'Largest norm of the gradient, above 0 and at most 1e6.',
    'bilevel': 'First-order bilevel: architecture on one half of the support set, weights on the other.',
    'patience': 'A stage ends early when its loss has stopped to fall, and the architecture to change, for so many steps, 0 to 500; 0 takes every step.',
    'shift_pixels': "The model also looks at four copies of each image, shifted diagonally by so many pixels of its input, and averages the features of all five: somewhat more accurate, for five times the arithmetic of a query. 0 to 16 and less than a quarter of the input's side; 0 looks once. For checkpoints without a trunk.",
}
