"""A profile says where processor time went, in every thread."""

import io
import threading

from benchmarks.hotspots import hotspots, profiled


def busy_work() -> int:
    return sum(number * number for number in range(200_000))


def test_work_in_a_thread_is_seen_by_its_name() -> None:
    out = io.StringIO()
    with profiled(out):
        thread = threading.Thread(target=busy_work)
        thread.start()
        thread.join()

    assert "test_hotspots.py:9 busy_work" in out.getvalue()


def test_functions_and_files_are_ordered_by_their_own_time() -> None:
    text = hotspots({("/a.py", 1, "small"): (5, 1.0, 9.0), ("/b.py", 2, "large"): (1, 3.0, 3.0)})

    assert text.index("75.0%  /b.py") < text.index("25.0%  /a.py")
    assert text.index("/b.py:2 large") < text.index("/a.py:1 small")
