"""The statistics under every sentence: what counts as independent, how sure a mean is, whether a difference is real.

    scores of prompts -> `units`: means of what is independent -> `bootstrap`: intervals
                                                               -> `ttests`: differences one by one, p and q
                                                               -> `permutation`: a difference as a whole

One set of rules holds everywhere. A difference counts at a level if its p, or its Benjamini-Hochberg q where many are
asked, is at most that level. No p is smaller than the data can give: a t test is never surer than a sign test whose
signs all agree, and permutations that are drawn rather than listed stand for the upper end of what they leave possible.
Below `ttests.MIN_UNITS` units on a side there is no p (NaN), and NaN is never significant; below `units.FEWEST` there
is no interval. Needles are the units of what prompts show, however few; groups are told apart from `units.ENOUGH` on.
"""
