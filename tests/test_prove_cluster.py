"""P2, P4 and P6 with workers elsewhere, every part killed at random: the short form of tests/prove/cluster.py."""

from tests.prove import cluster


def test_p2_p4_p6_every_job_ends_once_whichever_part_is_killed() -> None:
    for figure in cluster.prove(short=True):
        assert figure.ok, figure.line
