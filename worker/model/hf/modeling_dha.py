"""DHA model for transformers 4.57 and 5: LLaMA with head maps. Load it with trust_remote_code=True.

The cache holds the kept heads only (that is the point of the conversion); they are repeated for the query heads
that read them by an index_select in front of the attention kernel.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_dha import DhaConfig


class DhaAttention(LlamaAttention):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.num_key_value_groups = 1  # to the attention kernel every query head has heads of its own
        self.key_of = config.key_of[layer_idx]
        self.value_of = config.value_of[layer_idx]
        bias = config.attention_bias
        self.k_proj = nn.Linear(config.hidden_size, (max(self.key_of) + 1) * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, (max(self.value_of) + 1) * self.head_dim, bias=bias)

    @staticmethod
    def repeat(heads, of):
        if of == list(range(heads.shape[1])):
            return heads
        return heads.index_select(1, torch.tensor(of, device=heads.device))

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        batch_and_length = hidden_states.shape[:-1]
        shape = (*batch_and_length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        implementation = self.config._attn_implementation
        attend = eager_attention_forward if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        out, weights = attend(
            self,
            query,
            self.repeat(key, self.key_of),
            self.repeat(value, self.value_of),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(out.reshape(*batch_and_length, -1).contiguous()), weights


class DhaModel(LlamaModel):
    config_class = DhaConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = DhaAttention(config, index)
        self.post_init()


class DhaForCausalLM(LlamaForCausalLM):
    config_class = DhaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = DhaModel(config)
        self.post_init()
