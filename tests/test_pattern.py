"""The pattern of names of files of one plane each."""

import re
from pathlib import Path

import pytest

from live_restore.errors import ProfileError
from live_restore.profile import FolderSource, parse_profile
from live_restore.profile.pattern import NamePattern

FITS = [
    ("{channel}_{time}_{z}.tif", "GFP_001_02.tif", {"channel": "GFP", "time": "001", "z": "02"}),
    # A channel's name may hold what stands between the fields.
    ("{channel}_{time}_{z}.tif", "my_GFP_1_001_02.tif", {"channel": "my_GFP_1", "time": "001", "z": "02"}),
    ("{z}.tif", "0012.tif", {"z": "0012"}),
    ("*{z}.tif", "img0012.tif", {"z": "0012"}),
    ("*{z}*.tif", "img 12 b.tif", {"z": "12"}),
    ("t{time}*{z}.tif", "t0012.tif", None),
    ("t{time}*{z}.tif", "t00z12.tif", {"time": "00", "z": "12"}),
    ("{channel}{z}.tif", "w2 15.tif", {"channel": "w2 ", "z": "15"}),
    ("{z}{channel}.tif", "15GFP.tif", {"channel": "GFP", "z": "15"}),
    ("*_{channel}_{z}.tif", "run_1_GFP_3.tif", {"channel": "GFP", "z": "3"}),
    ("{channel}_*_{z}.tif", "GFP_a_b_3.tif", {"channel": "GFP", "z": "3"}),
    ("{position}_{channel}_{z}.tif", "A1_my_GFP_3.tif", {"position": "A1", "channel": "my_GFP", "z": "3"}),
    (
        "*_w{channel}_t{time}_z{z}.TIF",
        "exp 1_w1_wGFP_t1_z3.TIF",
        {"channel": "GFP", "time": "1", "z": "3"},
    ),
    (
        "{position}/{channel}_t{time}_z{z}.tif",
        "runs/Zelle µ (2)/日本_t1_z3.tif",
        {"position": "Zelle µ (2)", "channel": "日本", "time": "1", "z": "3"},
    ),
    ("*/t{time}/{z}.ome.tiff", "a/t5/3.ome.tiff", {"time": "5", "z": "3"}),
    ("{z}.tif", "a/b/3.tif", {"z": "3"}),
    ("a/{z}.tif", "3.tif", None),
    ("a/{z}.tif", "b/3.tif", None),
    ("{z}.tif", "3.TIF", None),
    ("{z}.tif", "3xtif", None),
    ("{z}.tif", "٣.tif", None),
    ("{z}.tif", "-3.tif", None),
    ("{channel}_{z}.tif", "_3.tif", None),
    ("{channel}_{z}.tif", "._GFP_3.tif", None),
    ("*/{z}.tif", ".hidden/3.tif", None),
    (".{channel}_{z}.tif", ".GFP_3.tif", {"channel": "GFP", "z": "3"}),
    ("a+(b)[c].{z}.tif", "a+(b)[c].3.tif", {"z": "3"}),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "path", "expected"), FITS)
def test_a_name_says_what_the_pattern_tells(pattern, path, expected):
    assert NamePattern.parse(pattern).fit(path.split("/")) == expected


WRONG = [
    pytest.param("{chanel}_{z}.tif", ["no field {chanel}", "did you mean {channel}?"], id="misspelt"),
    pytest.param("{Z}.tif", ["no field {Z}", "did you mean {z}?"], id="capital"),
    pytest.param("{z:03}.tif", ["no field {z:03}", "did you mean {z}?"], id="format"),
    pytest.param("{wavelength}_{z}.tif", ["{wavelength}", "{position}, {channel}, {time}, {z}"], id="field"),
    pytest.param("{}_{z}.tif", ["no field {}"], id="no name"),
    pytest.param("{z.tif", ["single {"], id="open brace"),
    pytest.param("z}.tif", ["single }"], id="closing brace"),
    pytest.param("{channel}.tif", ["lacks {z}"], id="no z"),
    pytest.param("{z}/{z}.tif", ["holds {z} 2 times", "write *"], id="twice"),
    pytest.param("{z}.png", ["must end with .tif or .tiff"], id="suffix"),
    pytest.param("{z}.*", ["must end with .tif or .tiff"], id="any suffix"),
    pytest.param("{time}{z}.tif", ["where {time} ends and {z} begins"], id="digits"),
    pytest.param("{position}{channel}_{z}.tif", ["where {position} ends and {channel} begins"], id="texts"),
    pytest.param("{channel}*_{z}.tif", ["where {channel} ends and * begins"], id="star"),
    pytest.param("**/{z}.tif", ["holds **", "*/"], id="two stars"),
    pytest.param("/data/{z}.tif", ["folder without a name"], id="absolute"),
    pytest.param("../{z}.tif", ["folder without a name"], id="above"),
    pytest.param("a//{z}.tif", ["folder without a name"], id="empty"),
    pytest.param("a\\{z}.tif", ["backslash", "write /"], id="backslash"),
    pytest.param("{position}\t{z}.tif", ["backslash in double quotes"], id="tab"),
    pytest.param("", ["folder without a name"], id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "expected"), WRONG)
def test_what_is_no_pattern_is_refused_with_what_to_do(pattern, expected):
    with pytest.raises(ValueError, match=re.escape(expected[0])) as caught:
        NamePattern.parse(pattern)
    for part in expected:
        assert part in str(caught.value)


PROFILE = """
[source]
kind = "folder"
path = "today"
{}
[model]
path = "default"
"""


def test_a_profile_takes_a_pattern():
    text = PROFILE.format('layout = "plane-files"\npattern = "{channel}_{time}_{z}.tif"')
    source = parse_profile(text, Path("p.toml")).source
    assert isinstance(source, FolderSource)
    assert source.pattern == "{channel}_{time}_{z}.tif"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            'pattern = "{chanel}_{z}.tif"',
            ["source.pattern = '{chanel}_{z}.tif'", "did you mean {channel}?"],
        ),
        ('layout = "plane-files"', ["source", "plane-files", "needs a pattern", "pattern ="]),
        ('layout = "plane-file"', ["source.layout = 'plane-file'", "'plane-files'"]),
    ],
)
def test_a_profile_whose_pattern_is_wrong_or_missing_is_told_so(lines, expected):
    with pytest.raises(ProfileError) as caught:
        parse_profile(PROFILE.format(lines), Path("p.toml"))
    for part in expected:
        assert part in str(caught.value)
