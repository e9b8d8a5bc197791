from clipkit.ingest.rows import ChunkOutcome
from clipkit.ingest.tally import Tally
from clipkit.ingest.worker import Underway


def test_a_chunk_counts_once_however_often_it_is_told() -> None:
    tally = Tally()
    tally.finish(ChunkOutcome(0, 8, {"timeout": 2}, 1_000_000))
    tally.note(Underway((ChunkOutcome(1, 3, {}, 500), ChunkOutcome(2, 1, {"timeout": 1}, 100))))
    tally.note(Underway((ChunkOutcome(1, 4, {"http_4xx": 1}, 999_900),)))
    assert (tally.rows, tally.samples, tally.failures) == (17, 13, {"timeout": 3, "http_4xx": 1})
    assert tally.figures(records=134, earlier=100, seconds=2) == {
        "urls_per_second": 8.5,
        "mb_per_second": 1.0,
        "ok": 0.7647,
        "causes": {"timeout": 3, "http_4xx": 1},
        "eta_seconds": 2,
    }
    assert tally.words(2) == "8 URLs/s, 1.0 MB/s, ok 76%; timeout 3, http_4xx 1"
    tally.finish(ChunkOutcome(2, 10, {}, 1000))
    assert (tally.rows, tally.failures) == (25, {"timeout": 2, "http_4xx": 1})


def test_a_chunk_begun_anew_counts_anew() -> None:
    tally = Tally()
    tally.note(Underway((ChunkOutcome(5, 900, {}, 100),)))
    tally.note(Underway((ChunkOutcome(5, 1, {}, 10),)))
    assert (tally.rows, tally.bytes) == (1, 10)


def test_before_anything_has_ended_there_is_no_end_in_sight() -> None:
    figures = Tally().figures(records=10, earlier=0, seconds=0)
    assert (figures["eta_seconds"], figures["ok"], figures["causes"]) == (None, 0, {})


def test_each_limit_is_remarked_upon_once() -> None:
    tally = Tally()
    assert tally.remark(8) is None
    tally.note(Underway((), ("slow.example", "share")))
    tally.note(Underway((), ("busy.example", "pause")))
    tally.note(Underway((), ("other.example", "pause")))
    tally.note(Underway((), ("last.example", "network")))
    remarks = {tally.remark(8), tally.remark(8), tally.remark(8)}
    assert {str(remark)[:45] for remark in remarks} == {
        "ingest: URLs of slow.example wait, as it gets",
        "ingest: busy.example asks for pauses: its URL",
        "ingest: nothing answers any more, nor can las",
    }
    assert tally.remark(8) is None
