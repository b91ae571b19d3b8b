"""CSV files of boxes with the columns that programs and competitions use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tool_exports import EXPORTS, pictures, text

from backbones.errors import UserError
from detection.data.annotations import CocoAnnotations
from detection.data.folders import layout_of, open_split, splits_of
from detection.data.layouts.open_images import UNLISTED
from detection.data.layouts.table import NO_SPLIT, ONE_CLASS

BOX = [10, 5, 30, 35]  # left, top, right and bottom


def written(root: Path, *lines: str, name: str = "train.csv") -> Path:
    """Write a CSV file and two images of 60 x 40 pixels; return the folder."""
    text(root / name, "\n".join(lines) + "\n")
    pictures(root / "train")
    return root


def read(root: Path, **options: Any) -> CocoAnnotations:
    return CocoAnnotations.of(open_split(root, "train", **options))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_id,width,height,bbox,label", 'a,60,40,"[10.0, 5.0, 20.0, 30.0]",dog'),
        ("image,xmin,ymin,xmax,ymax,label", "a.jpg,10,5,30,35,dog"),
        ("filename,x,y,w,h,class", "a.jpg,10,5,20,30,dog"),
        ("xmin,xmax,ymin,ymax,Frame,Label,Preview URL", "10,30,5,35,a.jpg,dog,http://crowdai.com/a"),
        ("image_id,class_name,class_id,x_min,y_min,x_max,y_max", "a,dog,3,10,5,30,35"),
        ("file_name,x_center,y_center,width,height,category", "a.jpg,20,20,20,30,dog"),
        ("path,x0,y0,x1,y1,category_name", "train/a.jpg,10,5,30,35,dog"),
        ("img_path,left,top,width,height,name,class", "a.jpg,10,5,20,30,Rex,dog"),
        ("image_name,BoxesString,class", 'a,"10 5 30 35",dog'),
        (",filename,x1,y1,x2,y2,x3,y3,x4,y4,label", "0,a.jpg,10,5,30,5,30,35,10,35,dog"),
        ("filename,xyxy,class", 'a.jpg,"(10, 5, 30, 35)",dog'),
    ],
)
def test_usual_names_of_columns_are_read(tmp_path: Path, header: str, row: str):
    root = written(tmp_path, header, row)
    data = read(root)
    assert layout_of(root).name == "table"  # type: ignore[union-attr]
    assert data.boxes.tolist() == [BOX] and data.categories.names == ("dog",)


def test_boxes_without_a_column_of_classes_are_one_class(tmp_path: Path):
    root = written(
        tmp_path, "image_id,width,height,bbox,source", 'a,60,40,"[10.0, 5.0, 20.0, 30.0]",usask_1', "b,60,40,,usask_1"
    )
    text(root / "sample_submission.csv", "image_id,PredictionString\na,1.0 0 0 50 50\n")
    data = read(root)
    assert data.categories.names == ("object",) and data.boxes.tolist() == [BOX] and data.empty().tolist() == [0, 1]
    assert data.notes[ONE_CLASS] == data.notes["columns that are not read (source)"] == 1


def test_classes_of_rows_without_a_box_are_no_classes(tmp_path: Path):
    header = "image_id,class_name,x_min,y_min,x_max,y_max"
    root = written(tmp_path, header, "a,none,10,5,30,35", "b,No finding,,,,")
    assert read(root).categories.names == ("none",)
    text(root / "val.csv", f"{header}\nb,dog,1,2,30,34\n")
    for split in ("train", "val"):
        assert CocoAnnotations.of(open_split(root, split)).categories.names == ("dog", "none")


def test_several_boxes_in_one_cell(tmp_path: Path):
    root = written(tmp_path, "image_name,BoxesString,domain", "a,10 5 30 35;0 0 9 9,x", "b,no_box,x")
    data = read(root)
    assert data.boxes.tolist() == [BOX, [0, 0, 9, 9]] and data.empty().tolist() == [False, True]


def test_rows_of_keras_retinanet_without_a_box_are_images_without_objects(tmp_path: Path):
    root = written(tmp_path, "train/b.png,,,,,", "train/a.jpg,10,5,30,35,dog")
    text(root / "classes.csv", "owl,0\ndog,1\n")
    data = read(root)
    assert data.categories.names == ("owl", "dog") and data.empty().tolist() == [True, False]
    text(root / "classes.csv", "owl,0\n")
    with pytest.raises(UserError, match=r"train.csv: line 2: its class 'dog' is not in classes.csv"):
        read(root)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,image,xmin,ymin,xmax,ymax,class", "a.jpg,a.jpg,10,5,30,35,dog"),
        ("filename,class,label,xmin,ymin,xmax,ymax", "a.jpg,dog,dog,10,5,30,35"),
        ("filename,class,xmin,ymin,xmax,ymax,cx,cy,w,h", "a.jpg,dog,10,5,30,35,20,20,20,30"),
        ("thing,class,xmin,ymin,xmax,ymax", "a.jpg,dog,10,5,30,35"),
        ("photo,links,oben,rechts,unten,klasse", "a.jpg,10,5,30,35,dog"),
    ],
)
def test_ambiguous_columns_are_named(tmp_path: Path, header: str, row: str):
    root = written(tmp_path, header, row)
    found = header.replace(",", ", ")
    with pytest.raises(UserError, match=rf"train.csv: needs one column of images \(such as filename\).* has {found}; "):
        read(root)


def test_texts_of_four_numbers_that_may_be_corners_are_refused(tmp_path: Path):
    root = written(tmp_path, "image_id,bbox", 'a,"[10, 5, 30, 35]"', 'b,"[30, 20, 60, 40]"')
    with pytest.raises(UserError, match=r"whether the column bbox holds widths .*; call it xywh or xyxy"):
        read(root)


@pytest.mark.parametrize(("cells", "splits"), [(("train", "val"), ["train", "val"]), (("1", "2"), ["train"])])
def test_a_column_of_splits_counts_if_its_cells_are_names_of_splits(
    tmp_path: Path, cells: tuple[str, str], splits: list[str]
):
    rows = [f"{name},{cell},1,2,30,34,dog" for name, cell in zip(("a.jpg", "b.png"), cells, strict=True)]
    root = written(tmp_path, "filename,set,xmin,ymin,xmax,ymax,class", *rows)
    (root / "train.csv").rename(root / "boxes.csv")
    assert splits_of(root) == splits
    data = read(root)
    assert len(data) == 3 - len(splits) and data.notes.get("columns that are not read (set)", 0) == 2 - len(splits)


def test_decimal_commas_are_read_between_semicolons(tmp_path: Path):
    root = written(tmp_path, "filename;xmin;ymin;xmax;ymax;class", "a.jpg;10,0;5;30,5;35;dog", "b.png;1;2;3;4;dog")
    data = read(root)
    assert data.boxes.tolist() == [[10, 5, 30.5, 35], [1, 2, 3, 4]]
    assert data.notes["lines whose numbers have decimal commas"] == 1
    root = written(tmp_path, "filename\txmin\tymin\txmax\tymax\tclass", "a.jpg\t1,000\t5\t30\t35\tdog")
    with pytest.raises(UserError, match=r"line 2: its box .* is not four numbers"):
        read(root)


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path):
    data = read(written(tmp_path, "", "filename;xmin;ymin;xmax;ymax;class", "", "a.jpg;10,0;5;30,5;35;dog"))
    assert data.boxes.tolist() == [[10, 5, 30.5, 35]]


def test_a_malformed_box_is_named(tmp_path: Path):
    root = written(tmp_path, "image_id,bbox", 'a,"[10, 5, 30]"')
    with pytest.raises(UserError, match=r"train.csv: line 2: its box .* is not four numbers"):
        read(root)


def test_fractions_are_scaled_and_counted(tmp_path: Path):
    EXPORTS["automl-csv"][1](tmp_path)
    notes = read(tmp_path).notes
    assert notes["boxes given as fractions of the sides of their image"] == 3


def test_fractions_that_rounding_put_beyond_one_are_fractions(tmp_path: Path):
    rows = ["filename,xmin,ymin,xmax,ymax,class", "a.jpg,0.5,-0.001,1.0001,0.5,dog", "b.png,0.1,0.1,0.5,0.5,dog"]
    assert read(written(tmp_path, *rows)).boxes[0].tolist() == pytest.approx([30, 0, 60, 20], abs=0.01)
    with pytest.raises(UserError, match=r"line 4: its box \[0.5, 0.5, 7.0, 0.6\] is not inside 0..1, as most boxes"):
        read(written(tmp_path, *rows, "b.png,0.5,0.5,7,0.6,dog"))


@pytest.mark.parametrize(
    "header", ["filename,class,Class,xmin,ymin,xmax,ymax", "filename,xmin,class,xmin,ymin,xmax,ymax"]
)
def test_columns_of_one_name_are_refused(header: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"has several columns (Class|xmin); rename or remove all but one"):
        read(written(tmp_path, header, "a.jpg,1,dog,1,2,3,4"))


@pytest.mark.parametrize("column", ["xyxy", "BoxesString", "bbox"])
def test_eight_numbers_in_a_cell_are_no_box(column: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"line 2: its box \['1 2 3 4 5 6 7 8'\] is not four numbers"):
        read(written(tmp_path, f"filename,{column},class", "a.jpg,1 2 3 4 5 6 7 8,dog"))


def test_images_of_another_split_have_a_row(tmp_path: Path):
    header = "filename,xmin,ymin,xmax,ymax,class"
    text(tmp_path / "train.csv", f"{header}\na.jpg,1,2,3,4,dog\n")
    text(tmp_path / "val.csv", f"{header}\nb.png,1,2,3,4,dog\n")
    pictures(tmp_path / "images")
    assert open_split(tmp_path, "train").notes == {}
    text(tmp_path / "val.csv", f"{header}\na.jpg,1,2,3,4,dog\n")
    assert open_split(tmp_path, "train").notes == {UNLISTED: 1}


def test_rows_without_a_split_are_left_out_and_counted(tmp_path: Path):
    rows = ["filename,split,xmin,ymin,xmax,ymax,class", "a.jpg,,1,2,3,4,dog", "b.png,train,1,2,3,4,dog"]
    root = written(tmp_path, *rows, name="boxes.csv")
    assert splits_of(root) == ["train"] and len(read(root)) == 2 and NO_SPLIT not in read(root).notes
    written(root, *rows, "b.png,val,1,2,3,4,dog", name="boxes.csv")
    assert [len(CocoAnnotations.of(open_split(root, split))) for split in splits_of(root)] == [1, 1]
    assert read(root).notes[NO_SPLIT] == 1


def test_images_of_another_split_of_open_images_have_a_row(tmp_path: Path):
    header = "ImageID,LabelName,XMin,XMax,YMin,YMax"
    for split, image in (("train", "a"), ("validation", "b")):
        text(tmp_path / f"{split}-annotations-bbox.csv", f"{header}\n{image},/m/1,0.1,0.5,0.1,0.5\n")
    pictures(tmp_path / "images")
    assert open_split(tmp_path, "train").notes == {}
    text(tmp_path / "validation-annotations-bbox.csv", f"{header}\na,/m/1,0.1,0.5,0.1,0.5\n")
    assert open_split(tmp_path, "train").notes == {UNLISTED: 1}
