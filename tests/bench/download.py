"""Our download stage beside `img2dataset.download()`: the same 2,000 URLs from the same origin, in turn, three times.

Each side runs in a process of its own with two workers; the time of a run on 20 URLs, mostly start, is taken off.
Over https our authority is added to the certificates that a machine comes with, as they are what img2dataset reads for
every URL; the last row, for the record, leaves it nothing else to read.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import certifi
import pyarrow as pa
import pyarrow.parquet as pq
import trustme

from data.world.make import HOST, make_world
from data.world.server import start_process

URLS, FEW, TURNS = 2000, 20, 3

THEIRS = """
import sys, shutil
from img2dataset import download
if __name__ == "__main__":
    urls, out = sys.argv[1:]
    download(url_list=urls, output_folder=out, input_format="parquet", url_col="url", caption_col="caption",
             processes_count=2, thread_count=64, number_sample_per_shard=1000, image_size=256, retries=0, timeout=30,
             resize_mode="keep_ratio_largest", resize_only_if_bigger=True, output_format="webdataset")
"""
OURS = """
import sys
from data.fetch.download import Download, DownloadSettings
from data.engine.local import LocalEngine
from data.sources.ingest import ingest
from data.lake.lake import Lake
from data.sources.sources import Source
from data.engine.stage import run_stage
from datetime import UTC, datetime
if __name__ == "__main__":
    urls, out, host, address = sys.argv[1:]
    lake = Lake.make(out, hosts={host: address})
    ingest(lake, (Source(path=urls),), datetime.now(UTC))
    settings = DownloadSettings(image_size=256, per_host=128, per_host_rate=100_000)
    with LocalEngine(2) as engine:
        run_stage(lake, Download(lake, settings), engine, 250)
    print(lake.table("images").count_rows())
"""


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    world = folder / "world"
    make_world(world, 2 * URLS, 5)
    plain = [row for row in pq.read_table(world / "labels.parquet").to_pylist() if row["origin"] == "ok"]
    plain = [row for row in plain if row["fault"] != "robots" and row["format"] is None][:URLS]
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    alone, beside_others = folder / "alone.pem", folder / "beside_others.pem"
    alone.write_bytes(authority.cert_pem.bytes())
    beside_others.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate = (str(folder / "cert.pem"), str(folder / "key.pem"))
    for what, bound, trusted in (
        ("http", 1.0, None),
        ("https", 3.0, beside_others),
        ("https with one trusted authority", 1.0, alone),
    ):
        with start_process(world, certificate=certificate if trusted else None) as origin:
            ratios, speeds = [], []
            for turn in range(TURNS):
                ours, theirs = (
                    measure(folder / f"{what}-{turn}-{mine}", plain, origin.url, trusted, mine)
                    for mine in (True, False)
                )
                ratios.append(theirs / ours)
                speeds.append(f"{URLS / ours:.0f} beside {URLS / theirs:.0f} images/s")
        yield f"download, {what}, against img2dataset", statistics.median(ratios), bound, True, "; ".join(speeds)


def measure(folder: Path, pairs: list[dict[str, str]], origin: str, trusted: Path | None, mine: bool) -> float:
    """Seconds for all URLs, less the seconds for a few."""
    folder.mkdir()
    scheme, _, address = origin.partition("://")
    base = f"{scheme}://{HOST if mine else 'localhost:' + address.rpartition(':')[2]}"
    script = folder / "script.py"
    script.write_text(OURS if mine else THEIRS)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()} | ({"SSL_CERT_FILE": str(trusted)} if trusted else {})
    times = []
    for count in (FEW, URLS):
        table = {
            "url": [f"{base}/p/{pair['url'].rpartition('/')[2]}" for pair in pairs[:count]],
            "caption": [pair["caption"] for pair in pairs[:count]],
        }
        urls, out = folder / f"{count}.parquet", folder / f"out-{count}"
        pq.write_table(pa.table(table), urls)
        command = [sys.executable, str(script), str(urls), str(out), *((HOST, address) if mine else ())]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return times[1] - times[0]
