"""Sizes in bytes, written for people."""


def format_bytes(count: int) -> str:
    """Return a number of bytes in MiB, or in GiB from one GiB on."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.2f} GiB"
    return f"{count / (1 << 20):.1f} MiB"
