"""Faithful miniatures of every layout in `SOURCES`: real file names, tiny contents.

`MINIATURES[kind]` maps a path below the root to the file's bytes, so that one miniature can be laid out in a
folder, in a zip file or in memory.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from upath import UPath

__all__ = ["MINIATURES", "OPTIONS", "dicom_bytes", "lay_out", "picture"]


def picture(form: str = "PNG", grey: int = 90, mode: str = "L") -> bytes:
    """A picture of 6 x 4 pixels."""
    stream = io.BytesIO()
    Image.new(mode, (6, 4), grey if mode == "L" else (0, grey, 0)).save(stream, form)
    return stream.getvalue()


def dicom_bytes(body_part: str = "", modality: str = "US", syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A DICOM file of 2 x 2 grey pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[body_part, modality])
    meta.TransferSyntaxUID = UID(syntax)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID = modality, "p1"
    if body_part:
        data.BodyPartExamined = body_part
    data.Rows = data.Columns = 2
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 7, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = bytes(4)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data)
    return stream.getvalue()


def lay_out(files: Mapping[str, bytes], where: str, folder: Path, name: str = "archive") -> str:
    """Write a miniature to a folder, a zip file or memory, and say where it lies."""
    if where == "zip":
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file, data in files.items():
                archive.writestr(file, data)
        return str(path)
    root = folder / name if where == "folder" else UPath(f"memory://{folder.name}/{name}")
    for file, data in files.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


PNG, JPG = picture(), picture("JPEG")
_MARKS = '[{"points": [{"x": 1, "y": 1}, {"x": 4, "y": 1}, {"x": 4, "y": 3}], "regionType": "freehand"}]'
_CASE = f"""<?xml version="1.0" encoding="UTF-8"?>
<case><number>12</number><age>40</age><sex>F</sex><composition>solid</composition><tirads>4a</tirads>
<mark><image>1</image><svg>{_MARKS}</svg></mark><mark><image>2</image><svg></svg></mark></case>"""

OPTIONS = {"class_folders": "liver", "image_mask": "thyroid", "dicom": "heart"}
"""Organs for the layouts that state none, or not for all files."""

MINIATURES: dict[str, dict[str, bytes]] = {
    "manifest": {
        "manifest.csv": b"path,organ,source,licence,label,mask_path,mask_kind,group,device,frame,pair_path,"
        b"official_split\n"
        b"a/1.png,Fetal Head,s,CC0-1.0,,m/1.png|m/2.png,binary png: head,p1,GE Voluson,,b/1.png,test\n"
        b"c.mp4,lung,s,CC BY 4.0,covid,,,,,3,,\n",
        "a/1.png": PNG,
        "b/1.png": PNG,
        "m/1.png": PNG,
        "m/2.png": PNG,
        "c.mp4": b"clip",
    },
    "folder": {
        "Heart/2CH ED/p1/a.png": PNG,
        "Heart/2CH ED/p1/a_mask.png": PNG,
        "lung/b.jpg": JPG,
        "lung/notes.txt": b"text",
    },
    "class_folders": {
        "train/benign/1.png": PNG,
        "train/benign/1_mask.png": PNG,
        "valid/malignant/2.jpg": JPG,
        "test/malignant/deep/3.png": PNG,
        "test/readme.md": b"text",
    },
    "image_mask": {
        "train/images/1.png": PNG,
        "train/masks/1.png": PNG,
        "test/images/2.jpg": JPG,
        "test/masks/2_mask.png": PNG,
        "test/images/3.png": PNG,
        "test/masks/4.png": PNG,
    },
    "dicom": {
        "DICOMDIR": dicom_bytes(),
        "DOE^JOHN/1.2.840.1": dicom_bytes("BREAST"),
        "DOE^JOHN/IM2.dcm": dicom_bytes(),
        "DOE^JOHN/report.txt": b"text",
        "DOE^JOHN/CT1.dcm": dicom_bytes("CHEST", "CT"),
        "DOE^JOHN/cut.dcm": dicom_bytes("BREAST", syntax=DeflatedExplicitVRLittleEndian)[:-30],
    },
    "busi": {
        "Dataset_BUSI_with_GT/benign/benign (1).png": PNG,
        "Dataset_BUSI_with_GT/benign/benign (1)_mask.png": PNG,
        "Dataset_BUSI_with_GT/benign/benign (1)_mask_1.png": PNG,
        "Dataset_BUSI_with_GT/malignant/malignant (1).png": PNG,
        "Dataset_BUSI_with_GT/malignant/malignant (1)_mask.png": PNG,
        "Dataset_BUSI_with_GT/malignant/malignant (2)_mask.png": PNG,
        "Dataset_BUSI_with_GT/normal/normal (1).png": PNG,
        "Dataset_BUSI_with_GT/normal/Thumbs.db": b"?",
    },
    "busbra": {
        "BUSBRA/bus_data.csv": b"ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX\n"
        b'bus_0001-l,1,fibroadenoma,benign,3,GE Logiq,6,4,l,"[1,1,2,2]"\n'
        b'bus_0001-r,1,ductal,malignant,5,GE Logiq,6,4,r,"[1,1,2,2]"\n'
        b'bus_0003-s,3,cyst,benign,2,,6,4,s,"[1,1,2,2]"\n',
        "BUSBRA/5-fold-cv.csv": b"ID,Pathology,kFold\n",
        "BUSBRA/Images/bus_0001-l.png": PNG,
        "BUSBRA/Images/bus_0001-r.png": PNG,
        "BUSBRA/Images/bus_0002-l.png": PNG,
        "BUSBRA/Masks/mask_0001-l.png": PNG,
        "BUSBRA/Masks/mask_0001-r.png": PNG,
    },
    "busuclm": {
        "INFO.csv": b"Image;Label;Resolution;Doppler;Marks;Combined\n"
        b"ALWI_000.png;Normal;6x4;No;No;No\nANFO_005.png;Benign;6x4;No;Yes;No\nANFO_006.png;Malignant;6x4;No;No;No\n",
        "images/ALWI_000.png": PNG,
        "images/ANFO_005.png": PNG,
        "masks/ALWI_000.png": picture(mode="RGB"),
        "masks/ANFO_005.png": picture(mode="RGB"),
    },
    "ddti": {
        "12.xml": _CASE.encode(),
        "12_1.jpg": JPG,
        "12_2.jpg": JPG,
        "13.xml": b"<case><number>13",
        "13_1.jpg": JPG,
        "14_1.jpg": JPG,
    },
    "tn3k": {
        "trainval-image/0000.jpg": JPG,
        "trainval-image/0001.jpg": JPG,
        "trainval-mask/0000.jpg": JPG,
        "trainval-mask/0001.jpg": JPG,
        "test-image/0000.jpg": JPG,
        "test-mask/0000.jpg": JPG,
        "label4trainval.csv": b"0000.jpg,0\n0001.jpg,1\n",
        "tn3k-trainval-fold0.json": json.dumps({"train": [0], "val": [1]}).encode(),
    },
    "hc18": {
        "training_set/000_HC.png": PNG,
        "training_set/000_HC_Annotation.png": PNG,
        "training_set/000_2HC.png": PNG,
        "training_set/000_2HC_Annotation.png": PNG,
        "test_set/000_HC.png": PNG,
        "training_set_pixel_size_and_HC.csv": b"filename,pixel size(mm),head circumference (mm)\n"
        b"000_HC.png,0.0691358041432,44.3\n000_2HC.png,0.07,45\n",
        "test_set_pixel_size.csv": b"filename,pixel size(mm)\n000_HC.png,0.235857478214\n",
    },
    "usenhance": {
        "train_datasets/breast/low_quality/1.png": PNG,
        "train_datasets/breast/high_quality/1.png": PNG,
        "train_datasets/carotid/low_quality/2.png": PNG,
        "train_datasets/carotid/low_quality/3.png": PNG,
        "train_datasets/carotid/high_quality/2.png": PNG,
        "train_datasets/carotid/high_quality/4.png": PNG,
    },
    "ultrabench": {
        "aul_liver_v1.0.0/train.json": json.dumps(
            [
                {
                    "image": "images/normal_1.jpg",
                    "scan_mask": "masks/scan/normal_1.png",
                    "liver_mask": "masks/liver/normal_1.png",
                    "mass_mask": None,
                    "pathology": "Normal",
                    "label": 0,
                }
            ]
        ).encode(),
        "aul_liver_v1.0.0/validation.json": b"[]",
        "aul_liver_v1.0.0/test.json": json.dumps([{"image": "../escape.jpg", "label": 1}]).encode(),
        "aul_liver_v1.0.0/images/normal_1.jpg": JPG,
        "aul_liver_v1.0.0/masks/liver/normal_1.png": PNG,
        "butterfly_v1.0.0/train.json": b"[]",
        "butterfly_v1.0.0/test.json": json.dumps(
            [{"image": "images/7.png", "patient": 5, "class": "4ch", "label": 4}]
        ).encode(),
        "butterfly_v1.0.0/images/7.png": PNG,
        "own/list.csv": b"path,label,split,organ,patient\nx/1.png,cyst,valid,Ovary,p9\n",
        "own/x/1.png": PNG,
    },
}
