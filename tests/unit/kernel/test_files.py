"""What a fault of the disk says."""

from pathlib import Path

import pytest

from dsp.kernel.files import write_synced


def test_a_full_disk_is_told_with_the_file_that_it_has_no_room_for() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_synced(Path("/dev/full"), b"x")
