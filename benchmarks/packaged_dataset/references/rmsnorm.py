import torch


@torch.no_grad()
def run(hidden_states, weight):
    """Root mean square norm over the last axis, in float32, epsilon 1e-6.

    Shapes: hidden_states bfloat16 [batch_size, 1024], weight bfloat16 [1024]; returns bfloat16 [batch_size, 1024].
    """
    assert hidden_states.shape[1] == 1024
    x = hidden_states.to(torch.float32)
    mean_square = x.square().mean(dim=1, keepdim=True)
    y = x / torch.sqrt(mean_square + 1e-6) * weight.to(torch.float32)
    return y.to(torch.bfloat16)
