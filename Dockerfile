# resnet-transfer in a container, for CPUs and for NVIDIA GPUs.
#   docker build -t resnet-transfer --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .   # CPU, small
#   docker build -t resnet-transfer .                                                               # CUDA
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" resnet-transfer train det --data coco
# The CUDA libraries come with PyTorch's packages; the host needs NVIDIA's driver and its container toolkit.
FROM python:3.12-slim AS build
# The index of torch and torchvision, which must come from the same one. PyPI's packages for Linux are for CUDA.
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.12" "torchvision>=0.27"
COPY . /src
RUN pip install "/src[export,demo,video]"

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
# Caches of weights and shapes lie below the working directory, which a user of any number can write to when mounted.
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/work/.cache TORCH_HOME=/work/.cache/torch NO_ALBUMENTATIONS_UPDATE=1
RUN useradd --create-home --uid 1000 user && install -d -o user /work
USER 1000
WORKDIR /work
# 8000 is the port of the demo page; publish it with -p 127.0.0.1:8000:8000 and start it with --host 0.0.0.0
EXPOSE 8000
ENTRYPOINT ["resnet-transfer"]
CMD ["--help"]
