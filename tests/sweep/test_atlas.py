"""The atlas against brute force over whole maps, and to the bit against itself: stopped, killed, joined, on Ray."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cutaway.core.errors import CutawayError, InputError, MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import Progress, finish
from cutaway.core.tap import Tap
from cutaway.data.folder import Pictures
from cutaway.sweep.atlas import Atlas, build
from cutaway.sweep.finish import DONE
from cutaway.sweep.join import join
from cutaway.sweep.ray_engine import on_ray
from cutaway.sweep.reducers import REDUCERS
from cutaway.sweep.seen import Seen
from cutaway.sweep.sketch import Sketch, counts
from cutaway.sweep.store import Folder

COUNT, SIZE, BROKEN = 29, 18, 11
LAYERS = ("stem", "block", "fc")


def network() -> VisionModel:
    torch.manual_seed(5)
    block = nn.Sequential(nn.Conv2d(6, 7, 3, stride=2, padding=1), nn.BatchNorm2d(7), nn.ReLU(inplace=True))
    layers = [
        ("stem", nn.Conv2d(3, 6, 3, padding=1)),
        ("relu", nn.ReLU(inplace=True)),
        ("pool", nn.MaxPool2d(2, ceil_mode=True)),
        ("block", block),
        ("average", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(7, 3)),
    ]
    net = nn.Sequential(OrderedDict(layers)).eval()
    with torch.no_grad():
        net.stem.weight[4] = 0  # a unit that answers every picture alike
        net.stem.bias[4] = -1
    return VisionModel(net, Preprocess(resize=SIZE, crop=SIZE), ("ant", "bee", "cow"), name="small")


def paint(folder: Path) -> Path:
    """Small pictures of three classes, one of which is none."""
    chance = np.random.default_rng(3)
    for i in range(COUNT):
        place = folder / ("ant", "bee", "cow")[i % 3]
        place.mkdir(exist_ok=True)
        cells = chance.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((24 + i % 3, 20), Image.Resampling.BICUBIC).save(place / f"{i:02d}.png")
    (folder / "bee" / f"{BROKEN:02d}.png").unlink(missing_ok=True)
    (folder / "cow" / f"{BROKEN:02d}.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"))


def listed(photos: Path) -> Pictures:
    return Pictures(photos, labels="folder", classes=("ant", "bee", "cow"))


def built(photos: Path, folder: Path, **options: Any) -> Atlas:
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]} | options
    return finish(build(network(), listed(photos), folder, **told))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return built(photos, tmp_path_factory.mktemp("atlases") / "whole")


@pytest.fixture(scope="module")
def maps(photos: Path) -> dict[str, Tensor]:
    """Every activation of every picture that can be read, kept whole."""
    model, pictures, found = network(), listed(photos), {name: [] for name in LAYERS}
    for number in range(len(pictures)):
        if pictures.names[number].endswith(f"{BROKEN:02d}.png"):
            continue
        with model.guard(), torch.no_grad(), Tap(model, *LAYERS) as tap:
            model(model.pixels(pictures.path(number)))
        for name in LAYERS:
            a = tap[name]
            found[name].append(a if a.ndim == 4 else a[:, :, None, None])
    return {name: torch.cat(parts).double() for name, parts in found.items()}


def readable(photos: Path) -> list[int]:
    names = listed(photos).names
    return [i for i, name in enumerate(names) if not name.endswith(f"{BROKEN:02d}.png")]


def test_tops_extremes_moments_and_quantiles_are_those_of_all_activations(
    whole: Atlas, maps: dict[str, Tensor], photos: Path
) -> None:
    numbers = readable(photos)
    assert len(numbers) == COUNT - 1
    assert whole.layers == ("stem", "block.0", "fc")  # the block's own activation is that of its first layer
    assert [whole.layer(name) for name in ("block", "stem")] == ["block.0", "stem"]
    for name, a in maps.items():
        n, u, _, w = a.shape
        for unit in range(u):
            best = sorted(
                (-float(a[i, unit].max()), numbers[i], int(a[i, unit].flatten().argmax())) for i in range(n)
            )[:5]
            top = whole.top(name, unit)
            np.testing.assert_allclose(top.values, [-v for v, _, _ in best], rtol=1e-5, atol=1e-6)
            if float(a[:, unit].max()) == 0:  # all alike: the first pictures, their first place
                assert top.pictures.tolist() == numbers[:5]
                assert top.rows.tolist() == top.cols.tolist() == [0] * 5
                continue
            assert len({round(v, 6) for v, _, _ in best}) == 5, "the oracle has no ties to decide"
            assert top.pictures.tolist() == [i for _, i, _ in best]
            assert (top.rows * w + top.cols).tolist() == [place for _, _, place in best]
            assert [whole.names[p] for p in top.pictures.tolist()] == list(top.names)
            assert top.labels.tolist() == [listed(photos).labels[i] for _, i, _ in best]
        extremes, moments = whole.reducer(name, "extremes"), whole.reducer(name, "moments")
        np.testing.assert_allclose(extremes.lows, a.amin((0, 2, 3)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(extremes.highs, a.amax((0, 2, 3)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.mean(), a.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moments.rms(), a.square().mean((0, 2, 3)).sqrt(), rtol=1e-5, atol=1e-7)
        for q in (0.1, 0.5, 0.995):
            value, bound = whole.reducer(name, "sketch").sketch.quantile(q)
            flat = a.movedim(1, 0).flatten(1).sort(1).values
            true = flat[:, max(0, int(np.ceil(q * flat.shape[1])) - 1)]
            assert bool(((value - true).abs() <= bound * (1 + 1e-6) + 1e-6).all())
        labels = listed(photos).labels[numbers]
        for c in range(3):
            peak, mean = (m[c] for m in whole.reducer(name, "classes").means())
            own = a[labels == c]
            np.testing.assert_allclose(peak, own.amax((2, 3)).mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(mean, own.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_predictions_embeddings_and_the_unreadable_are_in_the_tables(
    whole: Atlas, maps: dict[str, Tensor], photos: Path
) -> None:
    pooled = whole.swept.rows["embedding/block"]
    np.testing.assert_allclose(pooled, maps["block"].mean((2, 3)), rtol=1e-5, atol=1e-6)
    frame = pd.read_parquet(f"{whole.folder}/pictures.parquet")
    assert frame.picture.tolist() == list(range(COUNT))
    bad = frame[frame.unread.notna()]
    assert bad.name.tolist() == [n for n in whole.names if n.endswith(f"{BROKEN:02d}.png")]
    assert bad.predicted.map(len).tolist() == [0]
    assert (bad.label.tolist(), bad.label_name.tolist(), bad.height.tolist()) == ([2], ["cow"], [-1])
    assert [n for _, n, _ in whole.done["unread"]] == bad.name.tolist()
    scores = maps["fc"][:, :, 0, 0].softmax(1)
    good = frame[frame.unread.isna()]
    assert [p[0] for p in good.predicted] == scores.argmax(1).tolist()
    np.testing.assert_allclose([p[0] for p in good.probability], scores.amax(1), rtol=1e-5)
    assert good.label_name.tolist() == [n.split("/")[0] for n in good.name]
    sizes = [listed(photos).photo(i).size for i in readable(photos)]
    assert list(zip(good.height, good.width, strict=True)) == sizes


def test_the_tables_read_in_duckdb(whole: Atlas) -> None:
    table = f"'{whole.folder}/units.parquet'"
    rows = duckdb.sql(
        f"select channel, value, picture, top, bottom, row from {table} where layer = 'stem' and rank = 0"
    )
    found = {r[0]: r for r in rows.fetchall()}
    for unit in range(6):
        top = whole.top("stem", unit)
        _, value, picture, first, last, row = found[unit]
        assert (value, picture, row) == (float(top.values[0]), int(top.pictures[0]), int(top.rows[0]))
        assert (first, last) == (row - 1, row + 1)  # a 3x3 filter, padding 1
    dead = duckdb.sql(f"select layer, channel from '{whole.folder}/statistics.parquet' where dead").fetchall()
    assert ("stem", 4) in dead


def test_without_colour_the_unit_is_asked_at_the_same_place(whole: Atlas, photos: Path) -> None:
    model, pictures = network(), listed(photos)
    for layer in ("stem", "block"):
        grey, top = whole.grey(layer), whole.top(layer, 2)
        for rank in range(5):
            x = model.pixels(pictures.path(int(top.pictures[rank])))
            light = (
                (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None])
                .sum(1, keepdim=True)
                .expand(-1, 3, -1, -1)
            )
            with model.guard(), torch.no_grad(), Tap(model, layer) as tap:
                model(light)
            want = tap[layer][0, 2, top.rows[rank], top.cols[rank]]
            assert float(grey[2, rank]) == pytest.approx(float(want), rel=1e-4, abs=1e-6)


def test_mean_patches_are_weighted_means_of_the_fields(whole: Atlas, photos: Path) -> None:
    model, pictures = network(), listed(photos)
    for layer, unit in (("stem", 1), ("block", 3)):
        top, found = whole.top(layer, unit), whole.neuron_features(layer)
        assert found is not None
        own = whole.done["fields"][whole.layer(layer)]
        down, across = (torch.tensor(own[side])[own["group"][unit]] for side in ("rows", "cols"))
        total, weights = 0.0, 0.0
        for value, picture, row, col in zip(top.values, top.pictures, top.rows, top.cols, strict=True):
            x = (model.pixels(pictures.path(int(picture)))[0] * 255).round().double()
            margin = 40
            wide = torch.full((3, SIZE + 2 * margin, SIZE + 2 * margin), 128.0, dtype=torch.float64)
            wide[:, margin:-margin, margin:-margin] = x
            (t, b), (l, r) = (side + margin for side in (down[row], across[col]))  # noqa: E741
            weight = max(0.0, float(value)) / float(top.values[0])
            total = total + weight * wide[:, t : b + 1, l : r + 1]
            weights += weight
        assert (found[unit].double() - total / weights).abs().max() <= 0.51
    assert bool((whole.neuron_features("stem")[4] == 128).all())  # never above 0


def test_one_shard_or_many_one_batch_or_many_find_the_same(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    other = built(photos, tmp_path / "other", shard=64, batch=16)
    for layer in whole.layers:
        for unit in range(whole.units(layer)):
            a, b = whole.top(layer, unit), other.top(layer, unit)
            assert a.names == b.names
            np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)


def test_stopped_anywhere_and_run_again_it_is_the_same_to_the_bit(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    want, chance = files(Path(str(whole.folder))), random.Random(0)
    folder, stops = tmp_path / "stopped", 0
    while not (folder / DONE).exists():
        steps = build(
            network(),
            listed(photos),
            folder,
            k=5,
            shard=6,
            batch=3,
            threads=1,
            embeddings=["block"],
            workers=0,
        )
        for _ in range(chance.randint(1, 9)):
            if next(steps, None) is None:
                break
        steps.close()
        stops += 1
        assert stops < 100
        if not (folder / DONE).exists() and (folder / "manifest.json").exists():
            with pytest.raises(InputError, match="not finished"):
                Atlas(folder)
    finish(build(network(), listed(photos), folder, k=5, shard=6, batch=3, threads=1, embeddings=["block"]))
    assert stops > 3
    assert files(folder) == want


KILLED = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import test_atlas as t
t.built(Path({photos!r}), Path({folder!r}))
"""


def test_killed_at_random_moments_and_run_again_it_is_the_same_to_the_bit(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    want, folder, chance = files(Path(str(whole.folder))), tmp_path / "killed", random.Random(1)
    times = int(os.environ.get("CUTAWAY_KILLS", "3"))
    code = KILLED.format(here=str(Path(__file__).parent), photos=str(photos), folder=str(folder))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for kill in range(times):
        before = set(files(folder)) if folder.exists() else set()
        child = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while child.poll() is None and time.monotonic() < deadline:
            now = set(files(folder)) if folder.exists() and kill else set()
            if (folder / "manifest.json").exists() and (kill == 0 or now != before):
                time.sleep(chance.random() * 0.05)
                break
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (folder / DONE).exists():
            break
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = {name for name in files(folder) if Path(name).name.startswith(".")}
    assert {k: v for k, v in files(folder).items() if k not in left} == want


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_two_workers_of_ray_give_the_same_to_the_bit(whole: Atlas, photos: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]}
    steps = build(network(), listed(photos), tmp_path / "ray", **told, engine=on_ray(workers=2))
    finish(steps, seen.append)
    assert files(tmp_path / "ray") == files(Path(str(whole.folder)))
    assert any(step.done == COUNT for step in seen)
    gc.collect()  # what ray leaves open is met here


class Fatal(Pictures):
    """Pictures of which one takes the process down with it, the first time it is read."""

    def photo(self, number: int) -> Any:
        marker = self.root.parent / "died"
        if number == 8 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().photo(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_worker_that_is_lost_costs_its_shard_and_not_the_run(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    pictures = Fatal(photos, labels="folder", classes=("ant", "bee", "cow"))
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]}
    finish(build(network(), pictures, tmp_path / "lost", **told, engine=on_ray(workers=2)))
    assert (photos.parent / "died").exists()
    (photos.parent / "died").unlink()
    assert files(tmp_path / "lost") == files(Path(str(whole.folder)))
    with pytest.raises(InputError, match="1 of 5 parts failed"):
        finish(build(network(), pictures, tmp_path / "given up", **told, engine=on_ray(workers=2, tries=1)))
    assert len(list((tmp_path / "given up" / "shards").glob("*.safetensors"))) == 4
    finish(build(network(), listed(photos), tmp_path / "given up", **told))
    assert files(tmp_path / "given up") == files(Path(str(whole.folder)))
    gc.collect()


def test_atlases_of_two_halves_join_to_that_of_the_whole_in_any_order(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    parts = []
    for name, animals in (("one", ["ant"]), ("two", ["bee", "cow"])):
        pictures = Pictures([photos / a for a in animals], labels="auto", classes=("ant", "bee", "cow"))
        numbers = torch.tensor([("ant", "bee", "cow").index(a) for a in animals])
        names = pictures.names
        pictures.labels = (
            numbers[[animals.index(n.split("/")[0]) for n in names]]
            if len(animals) > 1
            else numbers.repeat(len(names))
        )
        pictures.classes = ("ant", "bee", "cow")
        steps = build(network(), pictures, tmp_path / name, k=5, shard=6, batch=3, threads=1)
        finish(steps)
        parts.append(tmp_path / name)
    there, _ = join(parts, tmp_path / "there"), join(parts[::-1], tmp_path / "back")
    assert files(tmp_path / "there") == files(tmp_path / "back")
    for layer in whole.layers:
        for unit in range(whole.units(layer)):
            a, b = whole.top(layer, unit), there.top(layer, unit)
            np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)
            if float(a.values[0]) != 0:
                assert [Path(n).name for n in a.names] == [Path(n).name for n in b.names]
                np.testing.assert_allclose(
                    whole.grey(layer)[unit], there.grey(layer)[unit], rtol=1e-4, atol=1e-6
                )
        assert torch.equal(
            whole.reducer(layer, "sketch").sketch.totals, there.reducer(layer, "sketch").sketch.totals
        )
        np.testing.assert_allclose(
            whole.reducer(layer, "moments").mean(),
            there.reducer(layer, "moments").mean(),
            rtol=1e-5,
            atol=1e-9,
        )
        one, other = (a.reducer(layer, "classes").means() for a in (whole, there))
        np.testing.assert_allclose(one.peak, other.peak, rtol=1e-5, atol=1e-7)
        extremes = [a.reducer(layer, "extremes") for a in (whole, there)]
        assert torch.equal(extremes[0].highs.round(decimals=4), extremes[1].highs.round(decimals=4))
    with pytest.raises(InputError, match="same pictures"):
        join([parts[0], parts[0]], tmp_path / "twice")
    with pytest.raises(InputError, match="not empty"):
        join(parts, tmp_path / "there")


def test_an_atlas_in_memory_storage_is_the_same(whole: Atlas, photos: Path) -> None:
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]}
    finish(build(network(), listed(photos), "memory://atlas-test", **told))
    remote, want = Folder("memory://atlas-test"), files(Path(str(whole.folder)))
    assert {name: remote.read(name) for name in remote.names()} == want


def refused(photos: Path, folder: Path, model: VisionModel | None = None, **options: Any) -> str:
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]} | options
    with pytest.raises(CutawayError) as error:
        finish(build(model or network(), listed(photos), folder, **told))
    return str(error.value)


def test_another_network_pictures_or_plan_is_refused_with_what_changed(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    folder = Path(str(whole.folder))
    want = files(folder)
    other = network()
    with torch.no_grad():
        other.network.stem.weight[0, 0, 0, 0] += 1
    assert "network was small" in refused(photos, folder, other)
    assert "k was 5 and is 4" in refused(photos, folder, k=4)
    with pytest.raises(InputError, match="of another network"):
        whole.check(other)
    whole.check(network())
    copy = tmp_path / "photos"
    for path in photos.rglob("*.png"):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert finish(
        build(network(), listed(copy), folder, k=5, shard=6, batch=3, threads=1, embeddings=["block"])
    )
    Image.new("RGB", (20, 20)).save(copy / "ant" / "00.png")
    assert "the pictures or their labels have changed" in refused(copy, folder)
    (copy / "ant" / "00.png").unlink()
    assert "there were 29 pictures and are 28" in refused(copy, folder)
    assert files(folder) == want


def test_bad_input_is_refused_in_words(whole: Atlas, photos: Path, tmp_path: Path) -> None:
    assert "k=30 of 29 pictures" in refused(photos, tmp_path / "a", k=30)
    assert "nowhere" in refused(photos, tmp_path / "a", layers=["nowhere"])
    assert "gigabytes" in refused(photos, tmp_path / "a", memory=1e-6)
    assert "shapes" in refused(photos, tmp_path / "a", statistics=["shapes"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert "not empty" in refused(photos, tmp_path / "mine")
    with pytest.raises(InputError, match="no atlas"):
        Atlas(tmp_path / "mine")
    with pytest.raises(UnknownNameError, match="block"):
        whole.top("blok", 0)
    for wrong in ({"channel": 6}, {"channel": -1}, {"channel": 0, "k": 6}):
        with pytest.raises(UsageError):
            whole.top("stem", **wrong)
    with pytest.raises(MethodRefusedError, match="keeps no moments"):
        built(photos, tmp_path / "few", statistics=("top",)).reducer("stem", "moments")
    damaged = tmp_path / "damaged"
    for name, content in files(Path(str(whole.folder))).items():
        (damaged / name).parent.mkdir(parents=True, exist_ok=True)
        (damaged / name).write_bytes(content[: len(content) // 2] if name == "state.safetensors" else content)
    with pytest.raises(InputError, match="damaged"):
        Atlas(damaged).top("stem", 0)
    about = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(about | {"schema_version": 99}))
    assert "version 99" in refused(photos, damaged)


def test_pictures_none_of_which_can_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of 3 pictures"):
        finish(build(network(), Pictures(tmp_path / "photos"), tmp_path / "out", k=2))


def test_a_network_that_mixes_the_pictures_of_a_batch_is_refused(photos: Path, tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return (h - h.mean(0, keepdim=True)).mean((2, 3)) + h.mean((2, 3)) * 1e-3

    torch.manual_seed(0)
    model = VisionModel(Mixed().eval(), Preprocess(resize=SIZE, crop=SIZE), name="mixed")
    with pytest.raises(MethodRefusedError, match="other pictures of the batch"):
        finish(build(model, listed(photos), tmp_path / "out", k=2, layers=["conv"]))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in refused(photos, tmp_path / "locked" / "atlas")


def test_a_full_disk_ends_in_words_and_goes_on_when_there_is_room(
    whole: Atlas, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, plain = 3, Path.write_bytes

    def full(self: Path, content: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            plain(self, content[:10])
            raise OSError(28, "No space left on device")
        return plain(self, content)

    folder = tmp_path / "full"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        assert "the disk is full" in refused(photos, folder)
    assert not [name for name in files(folder) if Path(name).name.startswith(".")]
    built(photos, folder)
    assert files(folder) == files(Path(str(whole.folder)))


def test_an_atlas_is_not_joined_with_what_it_was_joined_from(photos: Path, tmp_path: Path) -> None:
    for name, animal in (("one", "ant"), ("two", "bee")):
        finish(build(network(), Pictures(photos / animal), tmp_path / name, k=3, shard=6, batch=3, threads=1))
    join([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    with pytest.raises(InputError, match="the same pictures"):
        join([tmp_path / "both", tmp_path / "one"], tmp_path / "more")
    labelled = built(photos, tmp_path / "labelled", k=3, embeddings=[])
    with pytest.raises(InputError, match="one has labels"):
        join([tmp_path / "one", str(labelled.folder)], tmp_path / "mixed")


def test_atlases_with_some_pictures_in_common_are_not_joined(photos: Path, tmp_path: Path) -> None:
    more = tmp_path / "more" / "deeper"
    more.mkdir(parents=True)
    (more / "03.png").write_bytes((photos / "ant" / "03.png").read_bytes())
    (more / "none.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9), "red").save(more / "red.png")
    parts = {"one": photos / "ant", "two": tmp_path / "more", "three": photos / "bee"}
    for name, place in parts.items():
        (place / "none.png").write_bytes(b"no picture")
        finish(build(network(), Pictures(place), tmp_path / name, k=2, shard=6, batch=3, threads=1))
        (place / "none.png").unlink()
    with pytest.raises(InputError, match=r"hold 1 of the same pictures, such as (deeper/)?03\.png"):
        join([tmp_path / "one", tmp_path / "three", tmp_path / "two"], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
    both = join([tmp_path / "one", tmp_path / "three"], tmp_path / "joined")
    with pytest.raises(InputError, match="hold 1 of the same pictures"):
        join([both.folder.url, tmp_path / "two"], tmp_path / "again")


HELD = """
import os, signal, sys
from cutaway.sweep.store import Folder
with Folder(sys.argv[1]).held():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_takes_one_build_at_a_time_and_a_dead_one_holds_nothing(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    told = {"k": 5, "shard": 6, "batch": 3, "threads": 1, "embeddings": ["block"]}
    folder = tmp_path / "held"
    first = build(network(), listed(photos), folder, **told)
    next(first)
    assert f"process {os.getpid()} on" in refused(photos, folder)
    trying = [sys.executable, "-c", HELD, str(folder)]
    other = subprocess.run(trying, capture_output=True, text=True)
    assert other.returncode == 1
    assert f"process {os.getpid()} on" in other.stderr
    first.close()
    assert subprocess.run(trying).returncode == -signal.SIGKILL
    assert (folder / ".lock").exists()  # what a killed process leaves
    built(photos, folder)
    assert files(folder) == files(Path(str(whole.folder)))


UNLOCKED = """
import errno, fcntl
def flock(*_): raise OSError(errno.ENOSYS, "no locks here")
fcntl.flock = flock
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always has locks")
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_dead_process_holds_nothing_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    trying = [sys.executable, "-c", UNLOCKED + HELD, str(tmp_path)]
    assert subprocess.run(trying, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").exists()
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, "no locks here")))
    with (
        Folder(tmp_path).held(),
        pytest.raises(InputError, match=f"process {os.getpid()} is at work"),
        Folder(tmp_path).held(),
    ):
        pass
    assert not (tmp_path / ".lock").exists()


def test_tables_that_are_gone_are_written_again_and_what_is_broken_is_said(
    whole: Atlas, photos: Path, tmp_path: Path
) -> None:
    want = files(Path(str(whole.folder)))
    for gone in ("units.parquet", "features.safetensors", "state.safetensors"):
        folder = tmp_path / gone
        folder.mkdir()
        for name, content in want.items():
            if name != gone:
                (folder / name).write_bytes(content)
        built(photos, folder)
        assert files(folder) == want
    (folder / "features.safetensors").unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        Atlas(folder).grey("stem")
    about = json.loads(want["manifest.json"])
    lacking = [{**about, name: None} for name in ("model", "data", "plan", "preprocess", "versions")]
    older = {**about, "schema_version": 1, "plan": {**about["plan"], "old": 3}}
    for content in ({}, [1], None, "text", *lacking, older):
        (folder / "manifest.json").write_text(json.dumps(content))
        words = "has version 1" if content is older else "damaged"
        with pytest.raises(InputError, match=words):
            Atlas(folder)
        with pytest.raises(InputError, match=words):
            built(photos, folder)


def test_a_layer_may_have_any_name_and_pictures_one_size(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict([("a/b", nn.Conv2d(3, 4, 3)), ("c", nn.ReLU())])).eval()
    model = VisionModel(net, Preprocess(resize=SIZE, crop=SIZE), name="named")
    atlas = finish(build(model, listed(photos), tmp_path / "named", k=3, threads=1))
    assert atlas.layers == ("a/b",)
    assert len(atlas.top("a/b", 1)) == 3
    own = VisionModel(net, Preprocess(), name="unsized")
    with pytest.raises(UsageError, match="own sizes"):
        finish(build(own, listed(photos), tmp_path / "unsized", k=3))
    assert not (tmp_path / "unsized").exists()


def test_the_spread_of_a_unit_far_from_zero_is_kept() -> None:
    maps = 1000 + 1e-3 * torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    for laid in (maps, maps.contiguous(memory_format=torch.channels_last)):
        moments = REDUCERS["moments"](3)  # type: ignore[call-arg]
        moments.update(Seen(laid, torch.arange(4)))
        want = maps.double().movedim(1, 0).flatten(1).std(1, correction=0)
        np.testing.assert_allclose(moments.std(), want, rtol=1e-3)  # type: ignore[attr-defined]


def test_a_decimal_share_is_that_share() -> None:
    sketch = Sketch(counts(torch.arange(1.0, 11.0).view(-1, 1)))
    value, bound = sketch.quantile(0.9)
    assert abs(float(value) - 9) <= float(bound)


def test_pictures_that_change_while_the_atlas_is_built_end_it(photos: Path, tmp_path: Path) -> None:
    class Changing(Pictures):
        asked = 0

        def fingerprint(self, *args: Any, **more: Any) -> str:
            self.asked += 1
            return f"{self.asked}"

    pictures = Changing(photos, labels="folder", classes=("ant", "bee", "cow"))
    with pytest.raises(InputError, match="have changed while"):
        finish(build(network(), pictures, tmp_path / "changing", k=3, shard=6, batch=3, threads=1))
    assert not (tmp_path / "changing" / DONE).exists()


def test_a_lone_picture_in_the_first_batch_does_not_hide_that_pictures_mix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "photos").mkdir()
    for i in range(9):
        place = tmp_path / "photos" / f"{i}.png"
        cells = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(cells).save(place) if i > 1 else place.write_bytes(b"")
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model = VisionModel(net.eval(), Preprocess(resize=SIZE, crop=SIZE), name="mixing")
    with pytest.raises(MethodRefusedError, match="other pictures of the batch"):
        finish(
            build(model, Pictures(tmp_path / "photos"), tmp_path / "out", k=2, shard=9, batch=3, threads=1)
        )


class Odd(nn.Module):
    """Layers that run twice, under two names, or only lend their weights; scores of a kind."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives, self.stem = gives, nn.Conv2d(3, 6, 3, 2)
        self.twice, self.one = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.other, self.lent, self.head = self.one, nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(self.twice(self.twice(self.stem(x)))).mean((2, 3))
        given: Tensor = 40 * self.head(h @ self.lent.weight)
        kinds = {"softmax": given.softmax(1), "sigmoid": given.sigmoid(), "maps": given[:, :, None, None]}
        kinds["bounded sigmoid"] = given.sigmoid().clamp(1e-6, 1 - 1e-6)[:, :, None].squeeze(2)
        kinds["hard sigmoid"] = nn.functional.hardsigmoid(given)
        return kinds.get(self.gives, given)


def odd(gives: str = "logits") -> VisionModel:
    torch.manual_seed(2)
    return VisionModel(Odd(gives).eval(), Preprocess(resize=SIZE, crop=SIZE), name="odd")


def test_layers_that_cannot_be_watched_are_listed_with_the_reason(photos: Path, tmp_path: Path) -> None:
    told = {"k": 2, "threads": 1}
    atlas = finish(build(odd(), Pictures(photos / "ant"), tmp_path / "odd", **told))
    assert atlas.layers == ("stem", "one", "head")
    left = json.loads((tmp_path / "odd" / "manifest.json").read_text())["plan"]["left_out"]
    assert left.keys() == {"twice", "lent"}
    assert left["twice"] == "ran 2 times for one picture"
    assert "never ran by itself" in left["lent"]
    with pytest.raises(UnknownNameError, match="'twice' is not in the atlas: it ran 2 times"):
        atlas.top("twice", 0)
    assert atlas.layer("other") == "one"
    named = finish(build(odd(), Pictures(photos / "ant"), tmp_path / "named", layers=["other"], **told))
    assert torch.equal(named.top("other", 3).values, atlas.top("one", 3).values)
    assert not named.plan.left_out


@pytest.mark.parametrize("gives", ["logits", "softmax", "sigmoid", "bounded sigmoid", "hard sigmoid", "maps"])
def test_probabilities_are_what_they_are_called(gives: str, photos: Path, tmp_path: Path) -> None:
    pictures, model = Pictures(photos / "ant"), odd(gives)
    atlas = finish(build(model, pictures, tmp_path / "odd", k=2, threads=1))
    frame = pd.read_parquet(tmp_path / "odd" / "pictures.parquet")
    if "sigmoid" in gives or gives == "maps":
        assert "probability" not in frame
        assert ("(4, 1, 1)" if gives == "maps" else "sigmoid") in atlas.plan.scores
        return
    assert atlas.plan.scores == {"logits": "logits", "softmax": "probabilities"}[gives]
    with model.guard(), torch.no_grad():
        scores = model(torch.cat([model.pixels(pictures.path(n)) for n in range(len(pictures))]))
    want = scores if gives == "softmax" else scores.softmax(1)
    np.testing.assert_allclose([p[0] for p in frame.probability], want.amax(1), rtol=1e-4)


@pytest.mark.parametrize("keep", ["top", "extremes", "moments", "sketch"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_activations_that_are_not_finite_end_in_words(
    keep: str, value: float, photos: Path, tmp_path: Path
) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            with torch.no_grad():
                self.conv.bias[1] = value

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, :1].mean((2, 3))

    model = VisionModel(Broken().eval(), Preprocess(resize=SIZE, crop=SIZE), name="broken")
    steps = build(model, Pictures(photos / "ant"), tmp_path / "out", k=2, threads=1, statistics=(keep,))
    with pytest.raises(InputError, match=rf"layer 'conv': channel 1 answers 00.png .* with {value}"):
        finish(steps)


def test_a_network_whose_answer_is_not_finite_is_said_to_be_so(photos: Path, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.network.get_parameter("fc.bias")[1] = torch.nan
    assert "first in 'fc.bias'" in refused(photos, tmp_path / "out", model)
