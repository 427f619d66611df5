"""Seconds to build Twitter-GMNER v2.0 without pictures, beside a plain converter; and pictures measured a second.

RIVEGS_DATA=... python benchmarks/twitter_gmner_speed.py
python benchmarks/twitter_gmner_speed.py --smoke      # a small made folder, no data needed
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from data_builders.image_index import for_each_picture
from data_builders.twitter_gmner import FOLDERS, build_twitter_gmner, find_raw
from rivegs_mllm.data.images import open_picture, read_header
from rivegs_mllm.data.jsonl import SPLITS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a made folder of 300 posts")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.smoke:
            raw = make_raw(folder / FOLDERS[0])
        elif "RIVEGS_DATA" in os.environ:
            raw = find_raw(Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner")
        else:
            parser.error("set RIVEGS_DATA, or give --smoke")
        ours, plain = folder / "ours", folder / "plain"
        report(arguments.repeats, "plain converter", lambda: convert_plainly(raw, plain))
        report(arguments.repeats, "rivegs build", lambda: build_twitter_gmner(raw, [], ours, without_images=True))
        compare(ours, plain)
        paths = make_pictures(folder / "pictures", 50 if arguments.smoke else 1000)
        for label, work in (("headers", read_header), ("decoded", open_picture)):
            for threads in (1, 16):
                seconds = timed(lambda work=work, threads=threads: for_each_picture(work, paths, threads))
                print(f"pictures, {label}, {threads:2} threads: {len(paths) / seconds:7.0f}/s")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(repeats: int, label: str, work: Callable[[], object]) -> None:
    seconds = [timed(work) for _ in range(repeats)]
    shown = " ".join(f"{second:.2f}" for second in seconds)
    print(f"{label:>16}: median {statistics.median(seconds):.2f} s of {shown}")


def convert_plainly(raw: Path, out: Path) -> None:
    """What one writes without a second thought: xml.etree, pathlib and json, nothing checked."""
    out.mkdir(exist_ok=True)
    for split in SPLITS:
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for block in (raw / "txt" / f"{split}.txt").read_text(encoding="utf-8").split("\n\n"):
                if block.strip():
                    file.write(json.dumps(plain_post(raw, block.strip("\n").split("\n")), ensure_ascii=False) + "\n")


def plain_post(raw: Path, lines: list[str]) -> dict:
    identity = lines[0].removeprefix("IMGID:")
    pairs = [line.split("\t") for line in lines[1:]]
    boxes: dict[str, list[list[int]]] = {}
    size = None
    path = raw / "xml" / f"{identity}.xml"
    if path.exists():
        root = ElementTree.parse(path).getroot()
        size = [int(root.find("size").find(side).text) for side in ("width", "height")]
        for thing in root.findall("object"):
            edges = [int(thing.find("bndbox").find(edge).text) for edge in ("xmin", "ymin", "xmax", "ymax")]
            boxes.setdefault(thing.find("name").text, []).append(edges)
    spans: list[list] = []
    for index, (_, tag) in enumerate(pairs):
        if tag.startswith("B-"):
            spans.append([index, index + 1, tag[2:]])
        elif tag.startswith("I-"):
            spans[-1][1] = index + 1
    tokens = [token for token, _ in pairs]
    entities = []
    for start, end, kind in spans:
        text = " ".join(tokens[start:end])
        own = boxes.get(text, [])
        entities.append({"text": text, "type": kind, "span": [start, end], "visible": bool(own), "boxes": own})
    return {"id": identity, "tokens": tokens, "size": size, "entities": entities}


def compare(ours: Path, plain: Path) -> None:
    """Speed counts only for the same result."""
    for split in SPLITS:
        pairs = zip(*((folder / f"{split}.jsonl").open(encoding="utf-8") for folder in (ours, plain)), strict=True)
        for first, second in (map(json.loads, pair) for pair in pairs):
            for entity in second["entities"]:
                if not entity["boxes"]:
                    del entity["boxes"]
            if (first["id"], first["tokens"], first["entities"]) != (
                second["id"],
                second["tokens"],
                second["entities"],
            ):
                raise SystemExit(f"{split}: {first['id']}: the converters differ")
    print("both converters give the same posts, entities and boxes")


def make_raw(root: Path) -> Path:
    (root / "txt").mkdir(parents=True)
    (root / "xml").mkdir()
    for split in SPLITS:
        ids = [f"{split}_{number}" for number in range(100)]
        posts = "".join(f"IMGID:{identity}\nRT\tO\nAda\tB-PER\nLovelace\tI-PER\n!\tO\n\n" for identity in ids)
        (root / "txt" / f"{split}.txt").write_text(posts, encoding="utf-8")
        box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
        thing = f"<object><name>Ada Lovelace</name>{box}</object>"
        for identity in ids[::2]:
            text = f"<annotation><size><width>60</width><height>50</height></size>{thing}</annotation>"
            (root / "xml" / f"{identity}.xml").write_text(text, encoding="utf-8")
    return root


def make_pictures(folder: Path, count: int) -> list[str]:
    """JPEG of the size that is most common in Twitter-GMNER."""
    folder.mkdir()
    noise = Image.effect_noise((600, 450), 60).convert("RGB")
    noise.save(folder / "0.jpg")
    content = (folder / "0.jpg").read_bytes()
    for number in range(1, count):
        (folder / f"{number}.jpg").write_bytes(content)
    return [str(path) for path in sorted(folder.iterdir())]


if __name__ == "__main__":
    main()
