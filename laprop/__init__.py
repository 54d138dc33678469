"""Optimizers of the LaProp paper (Ziyin, Wang, Ueda 2020, https://arxiv.org/abs/2002.04839).

LaProp itself, and two optimizers that it is compared with and that torch does not have. All three
are ordinary ``torch.optim.Optimizer`` subclasses and need nothing but torch::

    from laprop import LaProp

    optimizer = LaProp(model.parameters(), lr=4e-4, betas=(0.9, 0.999))
    loss_function(model(inputs), targets).backward()
    optimizer.step()
"""

from laprop.adabound import AdaBound
from laprop.laprop import LaProp
from laprop.signsgd import SignSGD

__version__ = "0.1.0"
__all__ = ["AdaBound", "LaProp", "SignSGD", "__version__"]
