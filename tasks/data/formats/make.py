"""Writes the small recordings in other programs' formats: needs aedat, dv-processing, evt3, expelliarmus, h5py, tonic and NumPy."""
import pathlib
import sys

import aedat
import dv_processing as dv
import evt3
import expelliarmus
import numpy as np
from tonic.cached_dataset import save_to_disk_cache

out = pathlib.Path(sys.argv[1])
out.mkdir(exist_ok=True, parents=True)
WIDTH, HEIGHT, N = 64, 48, 300
i = np.arange(N)
t = 1000 + i * 4000 + (i % 7)
x, y, p = i * 13 % WIDTH, i * 29 % HEIGHT, i // 3 % 2
np.savetxt(out / "events.csv", np.stack([t, x, y, p], 1), "%d", ",")

def aedat4(name, kind):
    config = dv.io.MonoCameraWriter.EventOnlyConfig("TEST_1", (WIDTH, HEIGHT), kind)
    writer = dv.io.MonoCameraWriter(str(out / name), config)
    for part in np.array_split(i, 3):
        store = dv.EventStore()
        for k in part:
            store.push_back(int(t[k]), int(x[k]), int(y[k]), bool(p[k]))
        writer.writeEvents(store)

KINDS = [(kind.lower(), getattr(dv.CompressionType, kind)) for kind in ["NONE", "LZ4", "LZ4_HIGH", "ZSTD", "ZSTD_HIGH"]]
for name, kind in KINDS:
    aedat4(f"{name}.aedat4", kind)
events = np.zeros(N, dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
events["t"], events["x"], events["y"], events["p"] = t, x, y, p
for kind, name in [("evt2", "evt2.raw"), ("dat", "cd.dat")]:
    expelliarmus.Wizard(encoding=kind).save(str(out / name), events)

# expelliarmus writes EVT 3.0 without the high times, so this one follows the published description of the format.
words, high, row = [], None, None
for k in i:
    if t[k] >> 12 != high:
        high = t[k] >> 12
        words.append(0x8000 | high & 0xFFF)
    words.append(0x6000 | t[k] & 0xFFF)
    if y[k] != row:
        row = y[k]
        words.append(row)
    words.append(0x2000 | p[k] << 11 | x[k])
(out / "evt3.raw").write_bytes(b"% evt 3.0\n% end\n" + np.array(words, "<u2").tobytes())

# What other readers make of the files.
read = evt3.decode_file(str(out / "evt3.raw"))
others = {"evt3": {"t": read.timestamp, "x": read.x, "y": read.y, "p": read.polarity}}
for kind, name in [("evt2", "evt2.raw"), ("dat", "cd.dat")]:
    others[name] = expelliarmus.Wizard(encoding=kind).read(str(out / name))
for name, kind in KINDS:
    decoder = aedat.Decoder(str(out / f"{name}.aedat4"))
    packets = np.concatenate([packet["events"] for packet in decoder])
    others[name] = {"t": packets["t"], "x": packets["x"], "y": packets["y"], "p": packets["on"]}
for name, got in others.items():
    same = all((got[c] == events[c]).all() for c in "txyp")
    print(f"{name}: {'the same events' if same else 'OTHER EVENTS'}")

typed = np.zeros(N, dtype=[("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
for c in "txyp":
    typed[c] = events[c]
save_to_disk_cache(typed, 3, out / "cache_lzf.hdf5")
save_to_disk_cache(typed, 3, out / "cache_plain.hdf5", compress=False)
save_to_disk_cache(np.ones((4, 2, 6, 8), np.int16), 3, out / "cache_frames.hdf5")
