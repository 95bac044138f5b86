"""What both kinds of step do with a frame's codes and samples: end of speech, 16-bit audio."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def rows_still_speaking(codes: NDArray[np.int16], *, end: int) -> NDArray[np.bool_]:
    """Return which rows of a frame's codes [batch, codebooks] are speech: bool [batch].

    The end of speech is a frame of `end` (the configuration's `codebook_eos_token_id`): of zeros in
    Sesame's generator.py; transformers ignores its last codebook. A frame that either of them ends
    on ends here.
    """
    return cast(NDArray[np.bool_], (codes[:, :-1] != end).any(axis=1))


def scale_to_int16(pcm: Tensor) -> Tensor:
    """Clip samples to [-1, 1] and scale them to whole numbers within int16, the dtype unchanged.

    The copy into an int16 tensor casts them: no kernel of its own in a captured graph.
    """
    return torch.round(pcm.clamp(-1, 1) * 32767)
