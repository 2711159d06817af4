"""Writes the files of this folder: the same invented samples in every form of HDF5 that is read, and in some that are refused.

    pip install h5py==3.16.0 && python make.py

Sample i has i % 5 spikes; spike k is at k / 8 s on unit (100 i + k) % 700; its label is i % 20, its speaker i % 3.
"""

import h5py
import numpy as np


def write(name, libver, n=12, times="<f2", units="<u2", labels="<u2", rows={}, numbers={}, text="S6", early=False):
    with h5py.File(f"{name}.h5", "w", libver=libver) as f:
        counts = [i % 5 if i < 12 else 0 for i in range(n)]
        for path, kind, value in [
            ("spikes/times", times, lambda i, k: k / 8),
            ("spikes/units", units, lambda i, k: (100 * i + k) % 700),
        ]:
            data = f.create_dataset(path, (n,), dtype=h5py.vlen_dtype(np.dtype(kind)), **rows)
            for i, count in enumerate(counts):
                if count:
                    data[i] = np.array([value(i, k) for k in range(count)], dtype=kind)
        if early:
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((5,))
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            space = h5py.h5s.create_simple((n,))
            kind = h5py.h5t.py_create(np.dtype(labels))
            h5py.h5d.create(f.id, b"labels", kind, space, plan)
            f["labels"][:] = [i % 20 for i in range(n)]
        else:
            f.create_dataset("labels", data=np.array([i % 20 for i in range(n)], labels), **numbers)
        f.create_dataset("extra/speaker", data=np.array([i % 3 for i in range(n)], "<u2"), **numbers)
        keys = [f"key {i}" for i in range(20)]
        f.create_dataset("extra/keys", data=keys if text == "V" else np.array(keys, text))


chunks = dict(chunks=(5,))
gzip = dict(chunks=(5,), compression="gzip")
all_filters = dict(chunks=(5,), compression="gzip", shuffle=True, fletcher32=True)
shuffled = dict(chunks=(5,), compression="gzip", shuffle=True)
write("contiguous", "earliest")
write("big_endian", "earliest", times=">f4", units=">i4", labels=">i8", text="V")
write("tree", "earliest", rows=chunks, numbers=chunks)
write("tree_filtered", "earliest", rows=shuffled, numbers=all_filters)
write("single", ("v108", "v110"), rows=dict(chunks=(12,)), numbers=dict(chunks=(12,), compression="gzip"))
write("implicit", ("latest", "latest"), early=True)
write("fixed_array", "latest", rows=chunks, numbers=chunks)
write("fixed_array_filtered", ("v110", "v110"), rows=gzip, numbers=all_filters)
write("fixed_array_long", "latest", rows=shuffled, numbers=all_filters)
write("fixed_array_paged", "latest", n=2100, rows=dict(chunks=(2100,), compression="gzip"), numbers=dict(chunks=(2,)))
write("refused_extensible", "latest", rows=dict(chunks=(5,), maxshape=(None,)))
write("lzf", "earliest", rows=dict(chunks=(5,), compression="lzf"))
