# docker build -f environment/containers/cuda.Dockerfile -t rivegs-mllm:cuda .
# All commands and DeepSpeed, at the versions of requirements.lock, on NVIDIA GPUs of a driver for CUDA 13.
# The image with the compiler, which DeepSpeed builds its operators with.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/rivegs

# What changes seldom comes first, so that its layers are kept.
COPY requirements.lock ./
COPY environment/build.in environment/
RUN pip install -c requirements.lock torch torchvision
RUN pip install -c requirements.lock -r environment/build.in

COPY pyproject.toml setup.py README.md LICENSE ./
COPY rivegs_mllm rivegs_mllm
COPY data_builders data_builders
COPY eval eval
COPY recipes recipes
COPY accelerate_configs accelerate_configs
RUN pip install -c requirements.lock --no-build-isolation ".[all,serve]"

RUN useradd --create-home rivegs
USER rivegs
ENV HF_HOME=/home/rivegs/.cache/huggingface
WORKDIR /work
ENTRYPOINT ["rivegs"]
CMD ["--help"]
