"""Configuration of a DHA model: a LLaMA whose query heads read key and value heads through two maps per layer."""

from transformers.models.llama.configuration_llama import LlamaConfig


class DhaConfig(LlamaConfig):
    """LLaMA's fields, and per layer one number a query head:

    key_of[layer][head]: the key head that this query head reads; value_of[layer][head]: the value head.
    Heads are numbered 0..n-1 in each layer and kind; k_proj and v_proj hold n * head_dim rows.
    (Class attributes with annotations: transformers 5 turns them into dataclass fields, 4 reads them from the file.)
    """

    model_type = "dha"
    key_of: list | None = None
    value_of: list | None = None
