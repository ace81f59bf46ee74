import torch

TOP_K, N_GROUP, TOPK_GROUP = 4, 4, 2
NUM_EXPERTS, NUM_LOCAL_EXPERTS = 32, 8
HIDDEN, INTERMEDIATE, BLOCK = 512, 256, 128


def dequantize(weights, scale):
    """float32 matrix of an fp8 [N, K] with one scale per 128x128 block [N/128, K/128]."""
    N, K = weights.shape
    blocks = weights.to(torch.float32).view(N // BLOCK, BLOCK, K // BLOCK, BLOCK)
    return (blocks * scale.to(torch.float32)[:, None, :, None]).view(N, K)


def route(logits, bias, scaling_factor):
    """Chosen experts [T, TOP_K] and their weights [T, TOP_K], by the rule of DeepSeek-V3."""
    scores = torch.sigmoid(logits.to(torch.float32))
    biased = scores + bias.to(torch.float32)
    grouped = biased.view(len(logits), N_GROUP, NUM_EXPERTS // N_GROUP)
    group_scores = grouped.topk(2, dim=2).values.sum(dim=2)
    dropped = torch.ones_like(group_scores, dtype=torch.bool)
    dropped.scatter_(1, group_scores.topk(TOPK_GROUP, dim=1).indices, False)
    candidates = grouped.masked_fill(dropped.unsqueeze(2), float("-inf")).view_as(biased)
    chosen = candidates.topk(TOP_K, dim=1).indices
    weights = scores.gather(1, chosen)
    return chosen, weights / (weights.sum(dim=1, keepdim=True) + 1e-20) * scaling_factor


@torch.no_grad()
def run(
    routing_logits,
    routing_bias,
    hidden_states,
    hidden_states_scale,
    gemm1_weights,
    gemm1_weights_scale,
    gemm2_weights,
    gemm2_weights_scale,
    local_expert_offset,
    routed_scaling_factor,
):
    """The routed experts of one rank; experts outside [offset, offset + NUM_LOCAL_EXPERTS) add nothing."""
    T = routing_logits.shape[0]
    assert routing_logits.shape == (T, NUM_EXPERTS)
    assert hidden_states.shape == (T, HIDDEN)
    assert hidden_states_scale.shape == (HIDDEN // BLOCK, T)
    assert gemm1_weights.shape == (NUM_LOCAL_EXPERTS, 2 * INTERMEDIATE, HIDDEN)
    assert gemm2_weights.shape == (NUM_LOCAL_EXPERTS, HIDDEN, INTERMEDIATE)

    blocks = hidden_states.to(torch.float32).view(T, HIDDEN // BLOCK, BLOCK)
    activations = (blocks * hidden_states_scale.to(torch.float32).t().unsqueeze(2)).view(T, HIDDEN)
    chosen, weights = route(routing_logits, routing_bias, routed_scaling_factor)

    output = torch.zeros(T, HIDDEN, dtype=torch.float32, device=hidden_states.device)
    for expert in range(NUM_LOCAL_EXPERTS):
        token, slot = torch.nonzero(chosen == int(local_expert_offset) + expert, as_tuple=True)
        if token.numel() == 0:
            continue
        first = activations[token] @ dequantize(gemm1_weights[expert], gemm1_weights_scale[expert]).t()
        value, gate = first[:, :INTERMEDIATE], first[:, INTERMEDIATE:]
        hidden = gate * torch.sigmoid(gate) * value
        second = hidden @ dequantize(gemm2_weights[expert], gemm2_weights_scale[expert]).t()
        output.index_add_(0, token, second * weights[token, slot].unsqueeze(1))
    return output.to(torch.bfloat16)
