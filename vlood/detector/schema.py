"""The versions of ``detector.json``: what each field means, and how older ones are brought up.

A reader refuses a folder that says it needs a newer one (``reads_from``), and only warns of fields
it does not know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vlood.detector.described import Described
from vlood.errors import UsageError

log = logging.getLogger(__name__)

SCHEMA = 2
READS_FROM = 2

FIELDS = {
    "schema": "version of this description",
    "reads_from": "the oldest schema whose reader understands it",
    "kind": "always `vlood detector`",
    "method": "whose formula scores, as in `vlood methods`",
    "settings": "of the method, by name; what is missing has its default",
    "logit_scale": "factor on cosines, exponentiated (about 100 for CLIP)",
    "classes": "the K classes in order: [name in data, name in prompts]",
    "templates": "class templates; empty where contexts or embeddings gave the class features",
    "model": "what `--model` takes, or null for embeddings alone",
    "backbone": "identity of the model: architecture, config and weights digests, preprocessing, "
    "precision, open_clip version; or null",
    "classifier": "a closed-world classifier beside the model: where it is, identity, input, the "
    "classes of its outputs; in `classifier/` where a copy is kept; or null",
    "width": "D, numbers in an embedding",
    "negatives": "how many negative labels, M",
    "members": "names of the detectors that an ensemble combines, each in `members/NAME`; or none",
    "learned": "what was trained: kind, about and the names of its arrays; or null",
    "threshold": "one set by hand, that goes before the calibration's, or null",
    "calibration": "threshold, target and interval of the TPR, n, thresholds by class; or null",
    "figures": "how good it was: rows of an evaluation",
    "provenance": "command, seed, versions and digests of the data it was made from",
    "digests": "SHA-256 of the folder's other files by name",
}

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def _from_1(fields: dict[str, Any]) -> dict[str, Any]:
    """Bring up schema 1: class names alone, one template, the model inside the backbone."""
    names = fields.get("class_names")
    template = fields.get("template")
    backbone = fields.get("backbone")
    model = backbone.get("name") if isinstance(backbone, dict) else None
    kept = {
        name: value for name, value in fields.items() if name not in ("class_names", "template")
    }
    return {
        "learned": None,
        "calibration": None,
        "threshold": None,
        "figures": [],
        "provenance": {},
        "negatives": 0,
        **kept,
        "schema": 2,
        "reads_from": 2,
        "classes": [[name, name] for name in names] if isinstance(names, list) else names,
        "templates": [] if template is None else [template],
        "model": model,
        "backbone": {k: v for k, v in backbone.items() if k != "name"}
        if isinstance(backbone, dict)
        else backbone,
    }


# From each older schema to the next.
MIGRATIONS: dict[int, Migration] = {1: _from_1}


def up_to_date(described: Described, where: str) -> Described:
    """Bring a description up to today's schema, or refuse one that needs a newer vlood.

    Raises:
        UsageError: it is no detector's, or is too new.
    """
    schema = described.whole("schema")
    if described.text("kind") != "vlood detector":
        raise described.wrong("kind", "'vlood detector'")
    needs = described.whole("reads_from") if "reads_from" in described.fields else schema
    if schema > SCHEMA and needs > SCHEMA:
        raise UsageError(
            f"{where}: was written by a newer vlood (schema {schema}; this one reads up to "
            f"{SCHEMA}); update vlood"
        )
    if schema > SCHEMA:
        log.warning(
            "%s: was written by a newer vlood; what this one does not know is left out", where
        )
    fields = dict(described.fields)
    while schema < SCHEMA:
        if schema not in MIGRATIONS:
            raise described.wrong("schema", f"a version from 1 to {SCHEMA}")
        fields = MIGRATIONS[schema](fields)
        schema += 1
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        log.warning("%s: fields that this vlood does not know: %s", where, ", ".join(unknown)[:200])
    return Described(fields, where)
