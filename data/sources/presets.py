"""Presets for large published sets of pairs: the names of their URL and caption columns, and the extra columns to keep.

Extra columns that a release lacks are left out, because releases of one set differ. For example, the first release of
LAION has LICENSE and NSFW, and later ones have punsafe, pwatermark and hash.
"""

from data.sources.rows import Layout

LAION = (
    *("WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark", "LICENSE", "NSFW", "LANGUAGE"),
    *("AESTHETIC_SCORE", "aesthetic", "hash", "key", "SAMPLE_ID"),
)
COYO = (
    *("id", "width", "height", "image_phash", "text_length", "word_count", "num_tokens_bert", "num_tokens_gpt"),
    *("num_faces", "clip_similarity_vitb32", "clip_similarity_vitl14", "nsfw_score_opennsfw2"),
    *("nsfw_score_gantman", "watermark_score", "aesthetic_score_laion_v2"),
)
DATACOMP = (
    *("uid", "original_width", "original_height", "clip_b32_similarity_score", "clip_l14_similarity_score"),
    "face_bboxes",
)

PRESETS = {
    "laion2b": Layout(url="URL", caption="TEXT", extra=LAION, lenient=True),
    "coyo-700m": Layout(url="url", caption="text", extra=COYO, lenient=True),
    "cc3m": Layout(names=("caption", "url"), quoted=False),
    "cc12m": Layout(names=("url", "caption"), quoted=False),
    "datacomp": Layout(url="url", caption="text", sha256="sha256", extra=DATACOMP, lenient=True),
}
