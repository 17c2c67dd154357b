"""Frames coded by codecs that the project only decodes: `RAMP` and `COLOUR` of `media_factory`, base64.

Made with imagecodecs 2026.3.6: htj2k_encode (lossless and reversible=False), jpegls_encode, ljpeg_encode,
jpeg8_encode(bitspersample=12). DEEP is RAMP * 16 + 5 in 12 bits.
"""

from base64 import b64decode

__all__ = ["CODED"]

_TEXT = {
    "htj2k": (
        "/0//UQApQAAAAAA8AAAAKAAAAAAAAAAAAAAAPAAAACgAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBI"
        "UFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAI8AAf+TwCoA/z0jzgBBlADAEwAs+wCCdADA"
        "FQBSyqACMAJ2AMASwBWA5wV1FQCIiIiI+hJv3km+uADAFdAFaEwymUz++fv1+v1+S3kAAgD/Z4/f79/v3+y7AMAtOAWoAAAAAAD+"
        "f+np6enp6enp6eJ+AAAAAMD/fpAOuuuuuuuuuuuuupAB/9k="
    ),
    "htj2k_lossy": (
        "/0//UQApQAAAAAA8AAAAKAAAAAAAAAAAAAAAPAAAACgAAAAAAAAAAAABBwEB/1AACAACAAAAIv9SAAwAAgABAAUEBEAA/1wAIyJ3"
        "GHbqdup2vG8AbwBu4mdMZ0xnZFADUANQRlfSV9JXYf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAADDAAH/k8ABVk17"
        "usKKAv4A4ZQAwAFTAASAPfTAH38BQrQAezIzAMAC0YAFWLYlpKcHBcWSHpQZf/CEWZcAcEADDjj+ACQWtQDABXwAWqDMveTd3Fn8"
        "n+/X+X0LegAC/nNmzpz5bk995Pc/37/ZfrXqPgDAFvQBaACaiDNEnCHiDBFniP53/f5bf/lvf+W/f5Z/n0vLcgEEAACA/2aj9179"
        "17917LwAwBaIAADw/n/09PT09PT09PTyfgD/2Q=="
    ),
    "htj2k_rgb": (
        "/0//UQAvQAAAAAA8AAAAKAAAAAAAAAAAAAAAPAAAACgAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAA/9SAAwAAgABAQUEBEAB"
        "/1wAEyBQWFhYWFhYWFhYWFhYUFBQ/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAc4AAf+TwBUA/z8U/QAhlADAFSAS"
        "LUM7/gBhlADAE4AN3dAAQLQAwAmAlP4AAnQAwAmgBGDX6wECdAAA4wCgBGAA4wDACcCI+KMjwnUAwAqYARhlWf6gIjCCdgA4EwCg"
        "BGA4EwAAwAngBWii53+v23YAEEIIIYT6cm/fyb64AKAFaBBCCCGE+nJv38m+uADACsAEQgj5+v1+v1+reQDACvgBaoA5M2fOnPn5"
        "+/X6/X7LeQAIAAAAAMD/ZgCSP2Se/ZJ79knsvwCgBaoIAAAAAMD/ZgCSP2Se/ZJ79knsvwDAF9KAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAJwAAAAAA1OAAAAAAGpwAAAA"
        "AA1OAAAAAAGpwAAAAAA1OAAAAAAGpwAAAAAA1OAAAAAAGpwAAAAAA1WKlSpUqVKlSpUqVK25BMAWvAFrgNu2bdu2bdv2/n/gp6en"
        "p6enp6enQn8AAgAAgP9+l9/v3+/f79/v3+/f79/sswGgC1wCAACA/36X3+/f79/v3+/f79/v3+yzAf/Z"
    ),
    "jpegls": (
        "/9j/6AAgU1BJRkYAAgAAAQAAACgAAAA8CggGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsIACgAPAEBEQD/2gAIAQEAAAAAlXr7V9t/"
        "/3//f/9//3//f/9/aV//f/9//3/9v/9//3//f/8T/3//f/9//3r/f/9//3//fr//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/8A/9k="
    ),
    "jpegls_rgb": (
        "/9j/6AAgU1BJRkYAAgAAAwAAACgAAAA8CggGAQAAASwAAAEs/+gACAAAAAH/2P/3ABEIACgAPAMBEQACEQADEQD/2gAMAwEAAgAD"
        "AAACAEAAACmgDrKRVbqyq3VqrVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWVWV"
        "WVWVSKpFUiqRVIqkVSKpFU35P2/b835NbpS3f/9//3//f/9//3//f/9//3//f/9//1LW/3//f/9//3//f/9//3//f/9//3//f/9y"
        "z/9//3//f/9//3//f/9//3//f/9//3//bv9//3//f/9//3//f/9//3//f/9//3//fu//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9/"
        "/3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//"
        "f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/9//3//f/j/"
        "2Q=="
    ),
    "jpeg_lossless": (
        "/9j/xAAWAAEBAQAAAAAAAAAAAAAAAAABAgj/wwALCAAoADwBABEA/9oACAEAAAYAAM/3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3d3"
        "d3d3d3aqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqr/2Q=="
    ),
    "jpeg_extended_deep": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
        "CgoKBggLDAsKDAkKCgr/wQALDAAoADwBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAACw4N/8QAIBAAAAcBAAIDAAAAAAAAAAAAAAkK"
        "JTZDU3ECBihSYv/aAAgBAQAAPwDDk0ShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4GAEShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq"
        "4GAEShbcRYMKuBRAqAtv4U+ssH2q/HgJjvRKFtxFgwq4GAEShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4GAEShbcRYMKuBgBEoW3"
        "EWDCrgYARKFtxFgwq4FECoC2/hT6ywfar8eAmO9EoW3EWDCrgYARKFtxFgwq4GAEShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4GA"
        "EShbcRYMKuBgBEoW3EWDCrgUQKgLb+FPrLB9qvx4CY70ShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4GAEShbcRYMKuBgBEoW3EWD"
        "CrgYARKFtxFgwq4GAEShbcRYMKuBRAqAtv4U+ssH2q/HgJjvRKFtxFgwq4GAEShbcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4GAESh"
        "bcRYMKuBgBEoW3EWDCrgYARKFtxFgwq4FECoC2/hT6ywfar8eA//2Q=="
    ),
}
CODED = {name: b64decode(text) for name, text in _TEXT.items()}
