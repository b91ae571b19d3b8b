"""Metadata of the distribution; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

TASKS = ("classification", "detection", "segmentation")
PACKAGES = ("backbones", *TASKS, "tools")
EXPORT = ["onnx>=1.19", "onnxscript>=0.7", "onnxruntime>=1.23"]  # exporting detectors needs these
OPENVINO = ["openvino>=2024.6"]
DEMO = ["starlette>=0.40", "uvicorn>=0.30"]
NOTEBOOK = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29", "ipywidgets>=8", "pandas>=2.2"]
TEST = ["pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100", "shtab>=1.7", *DEMO, *NOTEBOOK]
VERSION = re.search(r'__version__ = "(.+)"', (Path(__file__).parent / "backbones" / "__init__.py").read_text())[1]

setup(
    name="resnet-transfer",
    version=VERSION,
    description="ResNet backbones pretrained on ImageNet for Faster R-CNN and FCN transfer experiments on COCO",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    keywords="resnet faster-rcnn mask-rcnn fcn object-detection segmentation transfer-learning coco pytorch",
    entry_points={"console_scripts": ["resnet-transfer = tools.cli.console:start"]},
    python_requires=">=3.10",
    packages=find_packages(include=[f"{name}{below}" for name in PACKAGES for below in ("", ".*")]),
    package_data={
        "backbones": ["py.typed"],
        "backbones.weights": ["*.csv"],  # accuracies that timm publishes
        "tools": ["py.typed"],
        "tools.reports": ["templates/*"],
        "tools.viewer": ["templates/*"],
        "detection.augmentation": ["*.yaml"],
        **{task: ["py.typed", "recipes/*.yaml", "experiments/*.yaml"] for task in TASKS},
    },
    install_requires=[
        "torch>=2.12",  # torch 2.10 refuses the norm layers of published detectors
        "torchvision>=0.27",
        "timm>=1.0.22",  # earlier versions cannot build transformers without data
        "numpy>=2.0",  # which OpenCV 5 needs
        "pycocotools>=2.0.8",
        "hotcoco>=1.3",
        "albumentations>=2.0.8,<3",  # the successor of this line is AGPL
        "opencv-python-headless>=5.0",  # the first line whose decoder refuses a truncated JPEG
        "pillow>=10.3",
        "tifffile>=2024.1.30",  # TIFF files of more than four bands, which OpenCV does not read
        "safetensors>=0.5",  # earlier versions name damaged files in another way
        "filelock>=3.12",
        "jsonargparse[signatures]>=4.51",
        "docstring-parser>=0.15",  # the texts of --help
        "PyYAML>=6.0",
        "tqdm>=4.66",
        "matplotlib>=3.8.4",  # the first for NumPy 2
        "jinja2>=3.1",  # torch's as well
        "tensorboard>=2.17.1",  # the first for NumPy 2
        "segmentation-models-pytorch>=0.5",  # the Dice loss
        "webdataset>=1.0.2",  # earlier lines hand addresses to a shell
    ],
    extras_require={
        "benchmark": ["faster-coco-eval>=1.6"],  # a peer of tools/benchmark.py evaluate
        "completion": ["shtab>=1.7"],  # resnet-transfer completion
        "demo": DEMO,  # resnet-transfer demo
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "ruff>=0.9"],  # make docs
        "export": EXPORT,
        "heif": ["pillow-heif>=0.16"],  # photos of telephones (.heic)
        "video": ["av>=14"],  # the sound of videos that predict.py draws on
        "openvino": [*EXPORT, *OPENVINO],  # export --format openvino
        "notebook": [*NOTEBOOK, *EXPORT],  # notebooks/quickstart.ipynb
        "results": ["pandas>=2.2", "supervision>=0.25"],  # to_pandas and to_supervision
        # --track; SQLAlchemy and Alembic are for MLflow's store on this machine.
        "track": ["mlflow-skinny>=2.20", "sqlalchemy>=2.0", "alembic>=1.13", "wandb>=0.19"],
        "test": [*TEST, *EXPORT, *OPENVINO],
        "dev": [*TEST, *EXPORT, *OPENVINO, "ruff>=0.9", "mypy>=1.13", "playwright>=1.49", "av>=14"],
    },
)
