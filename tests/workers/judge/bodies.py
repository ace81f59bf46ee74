"""Sources of candidates, from what their entry point does."""

HEAD = (
    "import ctypes, os, sys, time\nimport torch\n\ncalls = 0\n\n\n"
    "def good(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n\n\n"
)


def passing(body: str) -> str:
    """A destination-passing entry point with ``body`` (indented by four) and the helpers of HEAD."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return f"{HEAD}def run(x, y, out):\n    global calls\n    calls += 1\n{lines}"
