# docker build -f environment/containers/cpu.Dockerfile -t rivegs-mllm:cpu .
# All commands without a GPU, at the versions of requirements.lock, on the CPU build of torch. DeepSpeed is left out.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/rivegs

# What changes seldom comes first, so that its layers are kept.
COPY requirements.lock ./
COPY environment/build.in environment/
RUN pip install -c requirements.lock --extra-index-url https://download.pytorch.org/whl/cpu torch torchvision
RUN pip install -c requirements.lock -r environment/build.in

COPY pyproject.toml setup.py README.md LICENSE ./
COPY rivegs_mllm rivegs_mllm
COPY data_builders data_builders
COPY eval eval
COPY recipes recipes
RUN pip install -c requirements.lock --no-build-isolation ".[quant,cascade,sam,distill,metrics,serve]"

RUN useradd --create-home rivegs
USER rivegs
ENV HF_HOME=/home/rivegs/.cache/huggingface
WORKDIR /work
ENTRYPOINT ["rivegs"]
CMD ["--help"]
