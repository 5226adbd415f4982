"""DeepLabV2 on the pseudo masks, judged on the validation split (002, Tables 3 and 4)."""

from diffground.pipelines.segmenter_train.pipeline import create_pipeline

__all__ = ["create_pipeline"]
