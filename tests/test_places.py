"""What a text that names no place is told."""

import pytest

from parfocal.places import PlaceError, load


@pytest.mark.parametrize(
    ("place", "end"),
    [
        ("math.sqrt", "got 'math.sqrt'; did you mean 'math:sqrt'?"),
        ("torch.nn.Module", "got 'torch.nn.Module'; did you mean 'torch.nn:Module'?"),
        ("losses.py", "got 'losses.py'"),
        ("folder/losses.py", "got 'folder/losses.py'"),
        ("math", "got 'math'"),
        ("math.", "got 'math.'"),
        ("a..b", "got 'a..b'"),
        ("math:", "got 'math:'"),
    ],
)
def test_a_dotted_name_is_shown_as_a_place(place, end):
    """And nothing else is guessed."""
    with pytest.raises(PlaceError) as raised:
        load(place)
    assert str(raised.value) == f"expected package.module:name or path/file.py:name, {end}"
