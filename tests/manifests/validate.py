"""Whether each manifest (files of YAML) is one that Kubernetes takes, from 1.29 to the newest that the validator knows.

A field that a version does not know is an error, and so is a kind of which it has no schema.
"""

import sys

import kubernetes_validate
import yaml

OLDEST = 29


def versions():
    newest = int(kubernetes_validate.latest_version().split(".")[1])
    return [f"1.{minor}" for minor in range(OLDEST, newest + 1)]


def main(files):
    for file in files:
        with open(file) as text:
            manifests = list(yaml.safe_load_all(text))
        for version in versions():
            for manifest in manifests:
                try:
                    kubernetes_validate.validate(manifest, version, strict=True)
                except Exception as problem:
                    sys.exit(f"{file}, {manifest['kind']}, Kubernetes {version}: {problem!r}")
        print(f"{file}: {len(manifests)} manifests, Kubernetes {versions()[0]} to {versions()[-1]}")


main(sys.argv[1:])
