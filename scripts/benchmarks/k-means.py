"""scikit-learn's k-means on the features that scripts/benchmarks/k-means.ts wrote, with the same settings, and both side by side.

    python -m pip install scikit-learn safetensors numpy
    python scripts/benchmarks/k-means.py FEATURES.safetensors
    python scripts/benchmarks/k-means.py FEATURES.safetensors --time K [--seed N]     # only scikit-learn's, as JSON
"""

import argparse
import json
import time

import numpy as np
from safetensors import safe_open
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import normalized_mutual_info_score


def inertia_of(x, labels):
    """By definition, in float64."""
    total = 0.0
    for c in np.unique(labels):
        members = x[labels == c].astype(np.float64)
        total += ((members - members.mean(0)) ** 2).sum()
    return total


def purity(labels, classes):
    return sum(np.bincount(classes[labels == c]).max() for c in np.unique(labels)) / len(labels)


def timed(x, k, seed):
    """Seconds of k-means++, of Lloyd from there and of one pass of it, without the first; passes and inertia."""
    t = time.time()
    first, _ = kmeans_plusplus(x, k, random_state=seed)
    start = time.time() - t
    seconds = []
    for most in (1, 1, 300):
        t = time.time()
        km = KMeans(k, init=first, n_init=1, max_iter=most, tol=1e-4, algorithm="lloyd").fit(x)
        seconds.append(time.time() - t)
    return {
        "seconds": start + seconds[2],
        "passSeconds": (seconds[2] - seconds[1]) / (km.n_iter_ - 1),
        "passes": km.n_iter_,
        "inertia": float(km.inertia_),
    }


def main(path):
    with safe_open(path, "np") as f:
        x = f.get_tensor("features")
        names = set(f.keys())
        classes = f.get_tensor("classes") if "classes" in names else None
        ours = {int(k[1:]): json.loads(v) for k, v in (f.metadata() or {}).items() if k.startswith("k")}
        labels = {k: f.get_tensor(f"labels_{k}") for k in ours}
    for k, mine in sorted(ours.items()):
        km = KMeans(k, n_init=mine["restarts"], max_iter=300, tol=1e-4, algorithm="lloyd", random_state=0).fit(x)
        print(f"k={k} on {x.shape}")
        print(f"  inertia       ours {inertia_of(x, labels[k]):.6g} (reported {mine['inertia']:.6g})  scikit-learn {km.inertia_:.6g}  ratio {inertia_of(x, labels[k]) / km.inertia_:.4f}")
        if classes is not None:
            print(f"  purity        ours {mine['purity']:.4f} ({purity(labels[k], classes):.4f})  scikit-learn {purity(km.labels_, classes):.4f}")
            print(f"  NMI           ours {mine['nmi']:.4f} ({normalized_mutual_info_score(classes, labels[k]):.4f})  scikit-learn {normalized_mutual_info_score(classes, km.labels_):.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features")
    parser.add_argument("--time", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.time is None:
        main(given.features)
    else:
        with safe_open(given.features, "np") as f:
            print(json.dumps(timed(f.get_tensor("features"), given.time, given.seed)))
