"""UniAD's track and map perception in plain PyTorch, with the official parameter names.

Six images of a keyframe become 90 scene tokens, up to 299 agent tokens and up to 101 map tokens,
all 256 wide. Nothing here needs mmcv, mmdet or a compiled operation. Only the modules of this
package import torch; `config` and `inputs` do not.
"""
