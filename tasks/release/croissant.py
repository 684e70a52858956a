"""Croissant 1.1 metadata of a release (https://docs.mlcommons.org/croissant), with the fields of its RAI extension.

Every Parquet file is a file object with its SHA-256; a record set for each config reads the files of the config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.release.configs import Config, patterns
from tasks.release.licences import terms
from tasks.storage.manifest import Manifest
from tasks.text import visible

_OWN_TERMS = (
    "arrayShape citeAs column conformsTo:dct containedIn equivalentProperty extract field fileProperty fileObject fileSet format"
    " includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate"
    " separator source subField transform"
).split()
CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    **{
        term.partition(":")[0]: f"{term.partition(':')[2] or 'cr'}:{term.partition(':')[0]}"
        for term in _OWN_TERMS
    },
}
CONFORMS_TO: Final = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
_TYPES: Final = {
    pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.float64(): "sc:Float", pa.bool_(): "sc:Boolean",
}  # fmt: skip


def croissant(
    place: Path,
    manifest: Manifest,
    configs: Sequence[Config],
    meanings: Mapping[str, str],
    *,
    version: str,
    date: str,
    url: str,
) -> str:
    """Return `croissant.json` of a release folder whose Parquet files are written. `meanings` maps columns to descriptions, and
    `date` (YYYY-MM-DD) is that of the build."""
    files = sorted(place.rglob("*.parquet"))
    name = visible(manifest.name)
    record = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "conformsTo": list(CONFORMS_TO),
        "description": f"{name}: mathematics problems with the semantic entropy of their teacher, and the teacher's responses.",
        "license": sorted({terms(one) for one in _licences(manifest)}),
        "url": url,
        "version": version,
        "datePublished": date,
        "creator": {"@type": "Organization", "name": f"{name} contributors"},
        "inLanguage": "en",
        "isLiveDataset": False,
        "keywords": ["mathematics", "semantic entropy", "distillation", "synthetic"],
        "citeAs": f"@misc{{sure-math, title = {{{name}}}, howpublished = {{Dataset version {version}}}}}",
        **_responsible(manifest),
        "distribution": [_file_object(place, path) for path in files]
        + [_file_set(config) for config in configs],
        "recordSet": [_record_set(place, config, meanings) for config in configs],
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _licences(manifest: Manifest) -> set[str]:
    rows = manifest.contents.sources if manifest.contents else ()
    return {manifest.licence, *(row.licence for row in rows)}


def _file_object(place: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(place).as_posix()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet", "sha256": digest,
    }  # fmt: skip


def _file_set(config: Config) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet", "@id": f"files-of-{config.name}", "name": f"files-of-{config.name}",
        "encodingFormat": "application/x-parquet", "includes": patterns(config.parts),
    }  # fmt: skip


def _record_set(place: Path, config: Config, meanings: Mapping[str, str]) -> dict[str, Any]:
    first = next(iter(sorted(place.glob(patterns(config.parts)[0]))))
    problems = "problem_id" not in pq.read_schema(first).names
    return {
        "@type": "cr:RecordSet",
        "@id": config.name,
        "name": config.name,
        "description": config.meaning,
        "key": [
            {"@id": f"{config.name}/{name}"} for name in (("id",) if problems else ("problem_id", "index"))
        ],
        "field": [_field(config, column, meanings[column.name]) for column in pq.read_schema(first)],
    }


def _field(config: Config, column: pa.Field, meaning: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": f"files-of-{config.name}"}, "extract": {"column": column.name}}
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{config.name}/{column.name}",
        "name": column.name,
        "description": visible(meaning),
    }
    listed = isinstance(column.type, pa.ListType)
    kind = column.type.value_type if isinstance(column.type, pa.ListType) else column.type
    if listed:
        field |= {"isArray": True, "arrayShape": "-1"}
    if isinstance(kind, pa.StructType):
        return field | {
            "subField": [
                {
                    "@type": "cr:Field", "@id": f"{config.name}/{column.name}/{inner.name}", "name": inner.name,
                    "description": f"{inner.name} of a message", "dataType": _TYPES[inner.type],
                    "source": source | {"transform": {"jsonPath": inner.name}},
                }
                for inner in kind
            ]
        }  # fmt: skip
    return field | {"dataType": _TYPES[kind], "source": source}


def _responsible(manifest: Manifest) -> dict[str, Any]:
    """Return the fields of the RAI extension. They say what was done, and what the data are not good for."""
    models = ", ".join(f"{role}: {visible(model)}" for role, model in sorted(manifest.models.items()))
    built = "dedup" in manifest.settings
    return {
        "rai:dataCollection": (
            "Seed problems were rewritten by a model, filtered by rules, deduplicated, judged by a model and selected; a teacher"
            " model was sampled on the selected problems." if built else "A teacher model was sampled on the problems as given."
        ),
        "rai:dataCollectionType": ["Software Collection", "Others"],
        "rai:dataPreprocessingProtocol": [
            f"{one.stage}: {one.rows_in} in, {one.kept} kept, {one.dropped} rejected" for one in manifest.stages
        ],
        "rai:dataAnnotationProtocol": [
            "The answers of the teacher are grouped into clusters of equivalent answers; semantic entropy and weight are computed"
            " from the clusters. The card has the formula."
        ],
        "rai:machineAnnotationTools": [models],
        "rai:annotationsPerItem": f"{manifest.teacher.num_samples} responses of the teacher for each problem",
        "rai:annotatorDemographics": ["No people annotated the data."],
        "rai:dataUseCases": ["Training and distillation of language models on mathematics, with a weight for each problem."],
        "rai:dataLimitations": [
            "The weight measures how consistent one teacher is, and not whether it is correct.",
            "The majority answer is a model's; only the column answer is a ground truth.",
            "Do not use the config default if you report results on a benchmark that it overlaps with.",
        ],
        "rai:dataBiases": ["Problems and responses have the style and the mistakes of the models that wrote them. English only."],
        "rai:dataSocialImpact": "Models that are trained on the responses imitate one teacher, with its mistakes.",
        "rai:personalSensitiveInformation": ["None was collected. The texts were searched for access keys before the release."],
        "rai:dataReleaseMaintenancePlan": "Versions are tags of the repository; CHANGELOG.md lists what differs.",
    }  # fmt: skip
