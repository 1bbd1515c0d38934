"""FaceForensics++ as a TFDS dataset: one example is one video."""

import dataclasses
import functools
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from tfds_ffpp import card, packaging, system
from tfds_ffpp.errors import DataError, SettingError
from tfds_ffpp.fields import FIELDS, Fields
from tfds_ffpp.frames import entry as entries
from tfds_ffpp.frames.entry import read_frames
from tfds_ffpp.frames.people.finders import DLIB
from tfds_ffpp.frames.prepare import Preparation
from tfds_ffpp.tree.folders import parse_map
from tfds_ffpp.workers import limits

SHARD_BYTES = 64 << 20  # what writing needs in memory, about


@dataclasses.dataclass
class FfppConfig(tfds.core.BuilderConfig):
    """What a dataset is made of; two datasets of equal configs are equal.

    What each field may be stands in fields.py.

    name: folder of the built dataset.
    compression: raw, c23 or c40.
    layout: auto, official, mirror_c23, mirror_flat, mapped, celebdf_v2, dfdc,
      dfdc_preview, deeperforensics, csv, deepfakebench, df40_ff, df40_cdf,
      df40_unknown, wilddeepfake, ffiw or frames.
    map: what folders of other names hold: "original=real,manipulated=fake", or a
      method in place of fake. Each is taken at any depth.
    methods: fakes to take; () is all there are but FaceShifter and DeepFakeDetection.
    allow_missing: go on without a method that was asked for.
    allow_one_class: go on where a split has no reals or no fakes.
    num_frames: frames stored of each video.
    frame_step: 0 spreads them evenly over the video; k > 0 takes a run of frames, k
      apart, from its middle.
    image_size: side of the stored square, in pixels.
    crop: face (one box per video) or full (the whole frame, squeezed to a square).
    margin: side of the face crop in sides of the detected box.
    face_finder: dlib (its frontal detector), dlib_network (and where that finds nothing
      its network, which is slow; extra `faces`), yunet (needs face_finder_model) or
      none (largest centred square).
    face_finder_model: the .onnx file of yunet.
    landmarks: eyes, nose and mouth for the masks of self-blending: none places them in
      the face's box, dlib finds them (face_finder dlib, with the extra `faces`); yunet
      gives its own.
    align: none, or similarity: one turn, shift and scale for all frames of a video puts
      the median of its points where those of a typical face are. It needs points that
      were found: landmarks dlib, or face_finder yunet.
    masks: also store where each stored frame was forged, of the videos beside the
      fakes (METHOD/masks/videos); reals are forged nowhere.
    jpeg_quality, jpeg_subsampling: of the stored frames.
    protocol: official (the lists of the tree or the official ones, or our own split
      where neither fits),
      disjoint (our own, whatever lists there are), folders (those called train, val
      and test; without val, part of train), all_test (every video in test) or repeated
      (the original recipe's repeated videos).
    repeated_videos_per_class, repeated_val_videos: of the repeated protocol.
    strict: leave out the train side of the known source overlaps.
    max_rejected: share of unusable videos above which the build fails.
    """

    compression: str = "c23"
    layout: str = "auto"
    map: str = ""
    methods: tuple[str, ...] = ()
    allow_missing: bool = False
    allow_one_class: bool = False
    num_frames: int = 30
    frame_step: int = 0
    image_size: int = 224
    crop: str = "face"
    margin: float = 1.3
    face_finder: str = "dlib"
    face_finder_model: str = ""
    landmarks: str = "none"
    align: str = "none"
    masks: bool = False
    jpeg_quality: int = 95
    jpeg_subsampling: str = "444"
    protocol: str = "official"
    repeated_videos_per_class: int = 1500
    repeated_val_videos: int = 200
    strict: bool = False
    max_rejected: float = 0.01

    def __post_init__(self):
        """Takes lists for tuples, as JSON gives them. Raises SettingError."""
        for name, rule in FIELDS.items():
            wanted = rule.fault(getattr(self, name))
            if wanted:
                raise SettingError(
                    f"{name}={getattr(self, name)!r}; it must be {wanted}"
                )
        self.methods = tuple(self.methods)
        parse_map(self.map)
        if self.landmarks == "dlib" and self.face_finder not in DLIB:
            raise SettingError(
                "landmarks=dlib goes with face_finder=dlib or dlib_network, not "
                f"{self.face_finder}; set landmarks=none"
            )
        if self.align != "none":
            self._check_align()

    def _check_align(self) -> None:
        """Raises SettingError where no points are found that could be aligned."""
        if self.crop == "full" or self.face_finder == "none":
            why = "crop=full" if self.crop == "full" else "face_finder=none"
            raise SettingError(
                f"align=similarity needs a face whose points were found, and {why} "
                "looks for none; set crop=face, face_finder=dlib and landmarks=dlib, "
                "or align=none"
            )
        if self.face_finder in DLIB and self.landmarks == "none":
            raise SettingError(
                "align=similarity needs points that were found; landmarks=none only "
                "places them in a box: set landmarks=dlib (extra faces), or align=none"
            )

    @property
    def preparation(self) -> Preparation:
        """What decides the stored frames of a video."""
        names = [f.name for f in dataclasses.fields(Preparation)]
        return Preparation(**{name: getattr(self, name) for name in names})

    def content(self) -> Fields:
        """The fields that decide what the dataset holds, as plain JSON data."""
        ours = [f.name for f in dataclasses.fields(FfppConfig)][_INHERITED:]
        values = {name: getattr(self, name) for name in ours}
        return {**values, "methods": list(self.methods)}


_INHERITED = len(dataclasses.fields(tfds.core.BuilderConfig))

CONFIGS = (
    FfppConfig(name="c23", description="Face crops, official split, light H.264."),
    FfppConfig(name="raw", description="Face crops, lossless.", compression="raw"),
    FfppConfig(name="c40", description="Face crops, heavy H.264.", compression="c40"),
    FfppConfig(
        name="repeated",
        description="Whole frames, 1500 videos per class with reals repeated.",
        crop="full",
        protocol="repeated",
    ),
    FfppConfig(
        name="dfd",
        description="DeepFakeDetection and its actors, all in test.",
        methods=("DeepFakeDetection",),
        protocol="all_test",
    ),
    FfppConfig(
        name="celebdf_v2",
        description="The 518 test videos of Celeb-DF v2.",
        layout="celebdf_v2",
    ),
    FfppConfig(name="dfdc", description="DFDC's test list.", layout="dfdc"),
    FfppConfig(name="dfdc_preview", description="DFDC preview.", layout="dfdc_preview"),
    FfppConfig(
        name="df40_ff",
        description="DF40's fakes of FaceForensics++, its official split.",
        layout="df40_ff",
        face_finder="none",
    ),
    FfppConfig(
        name="df40_cdf",
        description="DF40's fakes of Celeb-DF, for test.",
        layout="df40_cdf",
        face_finder="none",
    ),
    FfppConfig(
        name="df40_unknown",
        description="DF40's nine methods of other sources, for test.",
        layout="df40_unknown",
        face_finder="none",
    ),
    FfppConfig(
        name="wilddeepfake",
        description="WildDeepfake's crops, its own train and test.",
        layout="wilddeepfake",
        face_finder="none",
    ),
    FfppConfig(name="ffiw", description="FFIW-10K, its own split.", layout="ffiw"),
    FfppConfig(
        name="deeperforensics",
        description="DeeperForensics-1.0 with FaceForensics++ reals.",
        layout="deeperforensics",
    ),
)
NAMED_CONFIGS = {config.name: config for config in CONFIGS}


def features(config: FfppConfig) -> tfds.features.FeaturesDict:
    """The features of an example; see docs/data.md for their meaning."""
    fts = tfds.features
    side, count = config.image_size, config.num_frames
    image = fts.Image(shape=(side, side, 3), encoding_format="jpeg")
    masks = {}
    if config.masks:
        mask = fts.Image(shape=(side, side, 1), encoding_format="png")
        masks = {"masks": fts.Sequence(mask, length=count)}
    angle = {"angle": fts.Scalar(np.float32)} if config.align != "none" else {}
    return fts.FeaturesDict(
        {
            "frames": fts.Sequence(image, length=count),
            **masks,
            "frame_index": fts.Sequence(fts.Scalar(np.int32), length=count),
            "timestamp": fts.Sequence(fts.Scalar(np.float32), length=count),
            "num_valid": fts.Scalar(np.int32),
            "label": fts.ClassLabel(names=["real", "fake"]),
            "method": fts.Text(),
            "compression": fts.Text(),
            "dataset": fts.Text(),
            "video_id": fts.Text(),
            "target": fts.Text(),
            "source": fts.Text(),
            "original": fts.Text(),
            "box": fts.Tensor(shape=(4,), dtype=np.float32),
            "coverage": fts.Scalar(np.float32),
            "num_faces": fts.Scalar(np.int32),
            **angle,
            "face_seen": fts.Tensor(shape=(count,), dtype=np.int32),
            "face_box": fts.Tensor(shape=(count, 4), dtype=np.float32),
            "face_points": fts.Tensor(shape=(count, 5, 2), dtype=np.float32),
            "masked": fts.Scalar(np.int32),
            "damaged": fts.Scalar(np.int32),
            "sha256": fts.Text(),
            "codec": fts.Text(),
            "pixel_format": fts.Text(),
            "width": fts.Scalar(np.int32),
            "height": fts.Scalar(np.int32),
            "fps": fts.Scalar(np.float32),
            "bit_rate": fts.Scalar(np.int64),
            "source_frames": fts.Scalar(np.int32),
        }
    )


class StableWriter(writer.ExampleWriter):
    """Writes each example with its features in one order.

    A serialised example is a map, whose order otherwise differs from run to run.
    """

    def write(self, path, examples):
        """See tfds.core's ExampleWriter."""
        return super().write(path, ((key, _in_order(data)) for key, data in examples))


def _in_order(data: bytes) -> bytes:
    example = tf_example_pb2.Example.FromString(data)  # pyright: ignore[reportAttributeAccessIssue]
    return example.SerializeToString(deterministic=True)


class Builder(tfds.core.ShardBasedBuilder):
    """Prepares videos in worker processes, then writes them shard by shard."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {
        "1.2.0": "Whether it is known where a video is forged; masks, if asked for.",
        "1.1.0": "Where the face is in each frame; a face must last or be confirmed.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS = list(CONFIGS[:1])  # what `tfds build` makes without --config
    builder_configs = {**NAMED_CONFIGS}  # pyright: ignore
    MANUAL_DOWNLOAD_INSTRUCTIONS = packaging.MANUAL_DIR_HELP

    def __init__(self, *, file_format: Any = None, **kwargs: Any):
        """As other builders; array_record unless another format is asked for."""
        self.num_processes: int | None = None
        self.keep_cache = False
        self.cache_dir: Path | None = None  # default: in the data dir
        self.time_limit = packaging.TIME_LIMIT
        self.memory_limit = limits.MEMORY
        self.stale: Path | None = None  # removed once nobody else builds this
        self._packed: packaging.Packed | None = None
        self._download_config: Any = None
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _create_builder_config(self, builder_config, version):
        # A config of a known name with other fields is taken; card.json tells it apart.
        if isinstance(builder_config, FfppConfig):
            return builder_config
        return super()._create_builder_config(builder_config, version)

    @property
    def _config(self) -> FfppConfig:
        assert isinstance(self.builder_config, FfppConfig)  # noqa: S101
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=features(self._config),
            supervised_keys=None,
            disable_shuffling=True,
            homepage="https://github.com/ondyari/FaceForensics",
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds unless the dataset is there; see tfds.core.DatasetBuilder.

        Raises DataError; under the `tfds` command it ends with the sentence alone.
        """
        try:
            self._build(**kwargs)
        except DataError as error:
            if Path(sys.argv[0]).name != "tfds":
                raise
            sys.stderr.write(f"error: {error}\n")
            sys.exit(error.exit_code)

    def _build(self, **kwargs: Any) -> None:
        if (Path(self.data_path) / "dataset_info.json").exists():
            card.check_same_config(Path(self.data_path), self._config)
            return
        system.need_posix("building a dataset")
        self._download_config = kwargs.get("download_config")
        manual_dir = getattr(self._download_config, "manual_dir", None) or (
            Path(self._data_dir_root) / "downloads" / "manual"
        )
        chosen = packaging.select(self._config, Path(manual_dir)).cap(self._most)
        data_dir = Path(self._data_dir_root).expanduser()
        root = self.cache_dir or data_dir / entries.CACHE
        place = packaging.cache_of(self._config, root)
        means = packaging.Means(
            self.num_processes,
            self.time_limit,
            self.memory_limit,
            getattr(self._download_config, "beam_runner", None),
            getattr(self._download_config, "beam_options", None),
        ).shared()
        packaging.need_space(data_dir, chosen.split, self._config)
        with entries.locked(place):
            packaging.remove_incomplete(Path(self.data_path))
            if self.stale is not None:
                shutil.rmtree(self.stale, ignore_errors=True)
            self._packed = packaging.prepare(
                chosen, self._config, cache=place, means=means
            )
            packaging.writing(
                functools.partial(super().download_and_prepare, **kwargs),
                Path(self.data_path),
            )
            if not self.keep_cache:
                entries.remove(place)

    @property
    def _most(self) -> int | None:
        """How many videos of each split are taken; None for all."""
        return getattr(self._download_config, "max_examples_per_split", None)

    def _example_writer(self) -> writer.ExampleWriter:
        return StableWriter(file_format=self.info.file_format)  # pyright: ignore[reportArgumentType]

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Any]]:
        del dl_manager  # the videos are prepared by now
        assert self._packed is not None  # noqa: S101
        return {
            split: [functools.partial(generate_examples, s) for s in shards]
            for split, shards in self._packed.shards(SHARD_BYTES).items()
        }

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # Here the folder still has its temporary name: it gets whole at once.
        assert self._packed is not None  # noqa: S101
        self._packed.write_tables(
            Path(self.data_path),
            self._config,
            most=self._most,
            version=str(self.version),
        )


def generate_examples(
    entries: Sequence[packaging.Entry],
) -> Iterator[tuple[str, dict[str, object]]]:
    """The examples of one shard, with their keys."""
    for entry in entries:
        images = read_frames(entry.path)
        count = len(entry.video.frame_index)
        example = {**entry.video.to_json(), "frames": images[:count]}
        if images[count:]:
            example["masks"] = images[count:]
        yield entry.video.key, example
