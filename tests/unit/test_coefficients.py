"""Coefficient tables and their files."""

import struct
import zipfile

import numpy as np
import pytest

from inference.contract.coefficients import Coefficients
from inference.contract.errors import EDTalkError

NAMES = ("jawOpen", "mouthSmile", "yaw")


@pytest.fixture
def curves() -> Coefficients:
    values = np.random.default_rng(1).normal(0.0, 3.0, (5, 3)).astype(np.float32)
    values[0] = [np.float32(1) / 3, np.finfo(np.float32).tiny, -np.finfo(np.float32).max]
    return Coefficients(values, NAMES, 24000 / 1001)


def same(left: Coefficients, right: Coefficients) -> bool:
    return np.array_equal(left.values, right.values) and (left.names, left.fps) == (right.names, right.fps)


class TestTable:
    def test_values_become_float32_rows(self):
        table = Coefficients([[1, 2, 3]], list(NAMES))
        assert table.values.dtype == np.float32
        assert table.names == NAMES
        assert len(table) == 1

    @pytest.mark.parametrize(
        ("values", "names", "fps", "complaint"),
        [
            (np.zeros((4, 2)), NAMES, None, r"shape \(T, 3\) for 3 names, found \(4, 2\)"),
            (np.zeros(3), NAMES, None, r"found \(3,\)"),
            ([[0, np.nan, 0]], NAMES, None, "finite"),
            ([[0, 0, np.inf]], NAMES, None, "finite"),
            ([[0, 0, 0]], ("a", "b", "a"), None, "twice"),
            ([[0, 0, 0]], NAMES, 0.0, "frame rate of coefficients must be above 0"),
            ([[0, 0, 0]], NAMES, float("nan"), "frame rate of coefficients must be above 0"),
        ],
    )
    def test_invalid_tables(self, values, names, fps, complaint):
        with pytest.raises(EDTalkError, match=complaint):
            Coefficients(values, names, fps)

    def test_rows_are_two_dimensional(self, curves):
        assert same(curves[1], curves[1:2])
        assert same(curves[-1], curves[4:5])
        assert curves[1:4].fps == curves.fps

    def test_iteration_ends(self, curves):
        assert [len(row) for row in curves] == [1] * 5
        with pytest.raises(IndexError):
            curves[5]

    def test_select_keeps_the_given_order(self, curves):
        selected = curves.select(["yaw", "jawOpen"])
        assert selected.names == ("yaw", "jawOpen")
        assert np.array_equal(selected.values, curves.values[:, [2, 0]])
        assert np.array_equal(curves.column("yaw"), curves.values[:, 2])
        with pytest.raises(EDTalkError, match="no coefficient 'nose'"):
            curves.select(["nose"])


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
class TestFiles:
    def test_round_trip_is_exact(self, curves, tmp_path, suffix):
        path = tmp_path / f"line{suffix}"
        curves.save(path)
        assert same(Coefficients.load(path), curves)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("fps", [None, 25, 23.976, 1e-3])
    def test_fps_is_kept(self, curves, tmp_path, suffix, fps):
        path = tmp_path / f"line{suffix}"
        Coefficients(curves.values, NAMES, fps).save(path)
        assert Coefficients.load(path).fps == fps

    def test_no_frames_and_unusual_names(self, tmp_path, suffix):
        names = ('a "b", c', "größe", "x\ny")
        path = tmp_path / f"none{suffix}"
        Coefficients(np.empty((0, 3)), names).save(path)
        assert Coefficients.load(path).names == names
        assert len(Coefficients.load(path)) == 0

    def test_a_failed_save_keeps_the_old_file(self, curves, tmp_path, suffix, monkeypatch):
        path = tmp_path / f"line{suffix}"
        curves.save(path)
        before = path.read_bytes()

        def full_disk(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", lambda path, **_: (path.write_bytes(b"half"), full_disk()))
        monkeypatch.setattr("csv.writer", lambda file: (file.write("half"), full_disk()))
        with pytest.raises(EDTalkError, match=f"line{suffix} could not be written: No space left") as caught:
            curves[:2].save(path)
        assert caught.value.kind == "disk"
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_file_instead_of_the_folder(self, curves, tmp_path, suffix):
        (tmp_path / "file").write_text("")
        with pytest.raises(EDTalkError, match="could not be written"):
            curves.save(tmp_path / "file" / f"line{suffix}")

    def test_missing_empty_and_random_files(self, tmp_path, suffix):
        path = tmp_path / f"bad{suffix}"
        with pytest.raises(EDTalkError, match=f"bad{suffix} does not exist"):
            Coefficients.load(path)
        for content in (b"", b"\x00\xff\xfe garbage", bytes(range(256)) * 700, b"PK\x03\x04 half a zip", b"<html>"):
            path.write_bytes(content)
            with pytest.raises(EDTalkError, match=f"bad{suffix} is not a readable coefficient file"):
                Coefficients.load(path)

    def test_a_folder_is_refused(self, tmp_path, suffix):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(EDTalkError, match=f"folder{suffix} is not a readable coefficient file"):
            Coefficients.load(tmp_path / f"folder{suffix}")


def test_other_suffixes(curves, tmp_path):
    with pytest.raises(EDTalkError, match=r"found '\.txt'"):
        curves.save(tmp_path / "line.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "time,a,b\n0,1,2\n",  # another table's header
        "fps=fast,a,b\n0,1,2\n",
        "frame,a,b\n0,1,2\n1,3\n",  # ragged
        "frame,a,b\n0,1,two\n",
        "\n",
    ],
)
def test_invalid_csv(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(EDTalkError, match=r"bad\.csv is not a readable coefficient file"):
        Coefficients.load(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("frame,a,b\n0,1,nan\n", "finite"),
        ("frame,a,b\n0,1\n1,2\n", r"for 2 names, found \(2, 1\)"),
        ("frame,a,b\n0,1,2,3,4\n", r"for 2 names, found \(1, 4\)"),
        ("frame,a,a\n0,1,2\n", "twice"),
        ("fps=-25,a,b\n0,1,2\n", "frame rate"),
    ],
)
def test_csv_with_invalid_numbers(tmp_path, text, complaint):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(EDTalkError, match=rf"bad\.csv cannot be used.*{complaint}"):
        Coefficients.load(path)


def test_csv_from_a_spreadsheet(tmp_path):
    path = tmp_path / "edited.csv"
    path.write_bytes("\ufefffps=25,a,b\r\n0,1,2.5\r\n1,3,-4e-1\r\n\r\n".encode())
    table = Coefficients.load(path)
    assert (table.names, table.fps) == (("a", "b"), 25.0)
    assert np.array_equal(table.values, np.array([[1, 2.5], [3, -0.4]], np.float32))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize(
    "text",
    [
        "fps=12.5,a,b\n0,1,2.5\n1,3,-4e-1\n",
        "fps=12,5;a;b\r\n0;1;2,5\r\n1;3;-4E-01\r\n",  # decimal comma
        "fps=12.5;a;b\n0;1;2.5\n1;3;-0.4\n",  # semicolons, decimal point
        "fps=12,5\ta\tb\n0\t1\t2,5\n1\t3\t-0,4\n",
        "sep=;\nfps=12,5;a;b\n0;1;2,5\n1;3;-0,4\n",
        "fps=12.5,a,b,,\n0,1,2.5,,\n1,3,-0.4,,\n,,,,\n,,\n",  # empty columns and rows at the end
        "fps=12,5;a;b;;\n0;1;2,5;;\n1;3;-0,4;;\n;;;;\n",
        "\nfps=12.5,a,b\n\n0,1,2.5\n1,3,-0.4",
    ],
)
def test_csv_as_spreadsheets_of_several_countries_save_it(tmp_path, text, encoding):
    path = tmp_path / "edited.csv"
    path.write_bytes(text.encode(encoding))
    table = Coefficients.load(path)
    assert (table.names, table.fps) == (("a", "b"), 12.5)
    assert np.array_equal(table.values, np.array([[1, 2.5], [3, -0.4]], np.float32))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("rows", [2, 20_000])
def test_names_that_are_not_ascii(tmp_path, encoding, rows):
    """Excel saves "CSV" in the encoding of the country. The table may be longer than what is looked at together."""
    path = tmp_path / "edited.csv"
    path.write_bytes(("fps=25,a\n" + "0,1\n" * rows + "1,2,é\n").encode(encoding))
    with pytest.raises(EDTalkError, match="is not a readable coefficient file"):
        Coefficients.load(path)
    path.write_bytes(("fps=25,naïve\n" + "0,1\n" * rows).encode(encoding))
    assert Coefficients.load(path).names == ("naïve",)


def test_one_column_with_a_decimal_comma(tmp_path):
    path = tmp_path / "edited.csv"
    path.write_text("fps=12,5;a\n0;0,25\n")
    assert Coefficients.load(path).values == 0.25


@pytest.mark.parametrize("text", ['frame,a\n0,"1,5"\n', "frame;a\n0;1.000,5\n", "frame,a,b\n0,1,\n"])
def test_ambiguous_or_missing_numbers_are_refused(tmp_path, text):
    path = tmp_path / "edited.csv"
    path.write_text(text)
    with pytest.raises(EDTalkError, match="is not a readable coefficient file"):
        Coefficients.load(path)


def test_invalid_npz(tmp_path):
    path = tmp_path / "bad.npz"
    values = np.zeros((2, 1))
    for content in (
        {"values": values},
        {"values": values, "names": ["a"], "fps": 25.0},  # a rate is kept as a list of none or one
        {"values": np.array([["x"], ["y"]]), "names": ["a"], "fps": []},
        {"values": np.array([[print]], object), "names": ["a"], "fps": []},  # would need a pickle
    ):
        np.savez(path, **content)
        with pytest.raises(EDTalkError, match=r"bad\.npz is not a readable coefficient file"):
            Coefficients.load(path)
    np.save(tmp_path / "array.npy", values)
    (tmp_path / "array.npy").replace(path)
    with pytest.raises(EDTalkError, match=r"bad\.npz is not a readable coefficient file"):
        Coefficients.load(path)
    np.savez(path, values=values * np.nan, names=["a"], fps=[])
    with pytest.raises(EDTalkError, match=r"bad\.npz cannot be used.*finite"):
        Coefficients.load(path)


def test_npz_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, values=np.zeros((80 * 2**20, 1), np.float32), names=["a"], fps=[])
    assert path.stat().st_size < 2**20
    with pytest.raises(EDTalkError, match=r"bomb\.npz is not a readable coefficient file"):
        Coefficients.load(path)


@pytest.mark.parametrize("code", [0xD800, 0x110000, 0xFFFFFFFF])
def test_npz_with_names_that_are_not_text(tmp_path, code):
    path = tmp_path / "bad.npz"
    np.savez(path, values=np.zeros((1, 1)), names=np.array([code], "<u4").view("<U1"), fps=[])
    with pytest.raises(EDTalkError, match=r"bad\.npz is not a readable coefficient file"):
        Coefficients.load(path)


def test_npz_with_a_forged_header(tmp_path):
    path = tmp_path / "bad.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1), }"
    for text in (header, header[:-3], header.replace(b"<f4", b"|O"), b"(" * 5000, b"\x00" * 80, b"'''"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("values.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
            for name, array in {"names": np.array(["a"]), "fps": np.array([])}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.save(file, array)
        with pytest.raises(EDTalkError, match=r"bad\.npz is not a readable coefficient file"):
            Coefficients.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "frame," + ",".join(f"a{number}" for number in range(2000)) + "\n",
        "frame,a\n0,1" + " " * 300_000 + "\n",
        "frame,a\n0," + "1" * 200_000 + "\n",
        'frame,a\n0,"1\n' * 3,
    ],
)
def test_csv_beyond_the_limits(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(EDTalkError, match=r"bad\.csv is not a readable coefficient file"):
        Coefficients.load(path)
