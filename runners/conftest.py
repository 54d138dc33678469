"""What the tests of this folder share."""

from runners.collect import read_all, tidy_table


def collect(jobs, experiment):
    """The tidy table of ``jobs``, all of which are finished."""
    finished = [found for found in read_all(jobs) if found]
    assert len(finished) == len(jobs)
    return tidy_table(finished, experiment)
