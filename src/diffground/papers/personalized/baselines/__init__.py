"""The methods that Tables 7, B.9 and B.10 set beside SelfCross (002, §5.3, appendix B.2).

| row | here | what stands for what |
| --- | --- | --- |
| Mask R-CNN | :mod:`.detector` | a Mask2Former in its place |
| DINO-ViT | :mod:`.descriptors` | the segments are SelfCross's: the paper says of none |
| Arithmetic | :mod:`.arithmetic` | two readings of what is replaced |
| PALAVRA + CLIP-ES | :mod:`.palavra`, :mod:`.clip_es` | ours, in the manner of PALAVRA |
| Custom + CLIP-ES | :mod:`.clip_es` | CLIP reads Custom Diffusion's word, not its weights |
| PALAVRA + SelfCross | :mod:`.palavra` | as above |

Not built: PALAVRA as it was published. Its words begin where a set encoder puts them, which learned
on the captions of COCO and the names of Open Images; ours begin at the class word. SEEM, of which
Figure 5 has a column, was asked by the authors through its web page, which keeps no record; its
weights cannot be had in transformers' layout.
"""
