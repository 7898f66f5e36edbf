"""A task of one's own: yes/no questions from a tab-separated file of image name, question and label."""

import hashlib
from pathlib import Path

from sightline.eval.tasks.base import Dataset, Document, Source, Task


def load(options):
    """The questions of `data`, about images in `images`."""
    content = Path(options["data"]).read_bytes()
    rows = [line.split("\t") for line in content.decode().splitlines()]
    documents = tuple(
        Document("all", str(n), image, question, label) for n, (image, question, label) in enumerate(rows)
    )
    source = Source(Path(options["data"]).name, hashlib.sha256(content).hexdigest(), len(rows))
    return Dataset(documents, Path(options["images"]), (source,))


SHELVES = Task(
    name="shelves",
    version=1,
    title="Is it on the shelf? Yes/no questions from a tab-separated file",
    load=load,
    options={"data": "shelves.tsv", "images": "images"},
    places=frozenset({"data", "images"}),
    answers={"yes": ("Yes", "yes"), "no": ("No", "no")},
    max_new_tokens=8,
)
