"""Make a tiny sentence-transformers model: `python -m tests.tiny_model FOLDER [SEED]`."""

import sys
import tempfile
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
)


def make_model(folder: Path, seed: int) -> None:
    """One layer of BERT over single letters, the mean of its tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    with tempfile.TemporaryDirectory() as bert:
        vocabulary = Path(bert) / "vocab.txt"
        vocabulary.write_text("\n".join(WORDS))
        BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(bert)
        BertModel(config).save_pretrained(bert)
        words = Transformer(bert, max_seq_length=64)
        SentenceTransformer(
            modules=[words, Pooling(words.get_embedding_dimension())], device="cpu"
        ).save(str(folder))


if __name__ == "__main__":
    make_model(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
