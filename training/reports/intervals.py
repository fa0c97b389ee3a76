"""95 % intervals where the bootstrap knows none: with all rows alike, every sample of them gives the same figure."""

import math

Z = 1.959964  # of the normal distribution, 95 % two-sided


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of ``rows``; 24 right of 24 are 86.2 to 100 %.

    For a mean of values between 0 and 1 it is at least as wide as it has to be. Anything beyond 1, such as a word
    error rate, has no such bound and comes back as it is.
    """
    if not 0 <= share <= 1 or rows < 1:
        return share, share
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2)) / (1 + Z**2 / rows)
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def difference(before: float, after: float, rows: int) -> tuple[float, float]:
    """Newcombe's interval (1998) of ``after`` less ``before``, two shares of ``rows``, out of Wilson's of each.

    Where no row has changed, it is as wide as the share of rows that may change unseen, to either side.
    """
    if before == after:
        return -wilson(0, rows)[1], wilson(0, rows)[1]
    (low_before, high_before), (low_after, high_after) = wilson(before, rows), wilson(after, rows)
    change = after - before
    return (
        change - math.hypot(after - low_after, high_before - before),
        change + math.hypot(high_after - after, before - low_before),
    )
